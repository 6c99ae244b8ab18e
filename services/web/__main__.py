"""Start the web process."""

from services.kit.lifecycle.process import run_process
from services.web.config import WebSettings
from services.web.shell.app import WebApp

if __name__ == "__main__":
    run_process("web", WebSettings, WebApp)
