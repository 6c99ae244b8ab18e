"""Start the ca process."""

from services.ca.config import CaSettings
from services.ca.shell.app import CaApp
from services.kit.lifecycle.process import run_process

if __name__ == "__main__":
    run_process("ca", CaSettings, CaApp)
