"""Start the dispatcher process."""

from services.dispatcher.config import DispatcherSettings
from services.dispatcher.shell.app import DispatcherApp
from services.dispatcher.shell.memory import collect_rarely
from services.kit.lifecycle.process import run_process

if __name__ == "__main__":
    collect_rarely()
    run_process("dispatcher", DispatcherSettings, DispatcherApp)
