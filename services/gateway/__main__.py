"""Start the gateway."""

from services.gateway.config import GatewaySettings
from services.gateway.shell.app import GatewayApp
from services.kit.lifecycle.process import run_process

if __name__ == "__main__":
    run_process("gateway", GatewaySettings, GatewayApp)
