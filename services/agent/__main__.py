"""Start the agent process."""

from services.agent.config import AgentSettings
from services.agent.shell.app import AgentApp
from services.kit.lifecycle.process import run_process

if __name__ == "__main__":
    run_process("agent", AgentSettings, AgentApp)
