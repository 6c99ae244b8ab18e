"""Settings of the agent, from the environment its supervisor makes (``SWARMBUS_…``)."""

from __future__ import annotations

from pathlib import Path

from services.kit.lifecycle.settings import ProcessSettings


class AgentSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the agent is told."""

    hostname: str = ""
    """Name shown for the node; empty means the machine's."""
    drivers: tuple[str, ...] = ("process", "docker", "oci", "fake")
    """Drivers to load, as a JSON list; one whose engine is missing is loaded and reported as unable."""
    docker_socket: str = "/var/run/docker.sock"
    """Where the Docker engine listens."""
    generic_resources: tuple[str, ...] = ()
    """``KIND=AMOUNT`` or ``KIND=name`` each, as a JSON list; for example ``["GPU=gpu0", "GPU=gpu1", "SSD=2"]``."""
    resource_devices: tuple[str, ...] = ()
    """Devices that a container gets with a generic resource: ``KIND/name=DEVICE`` or ``KIND=DEVICE`` each, as a JSON list."""
    nano_cpus: int = 0
    """Processor share to offer; 0 means the machine's."""
    memory_bytes: int = 0
    """Memory to offer; 0 means the machine's."""
    volume_drivers_dir: str = ""
    """Where the programs of volume drivers are; empty means ``volume-drivers`` in the state directory."""
    describe_interval_s: float = 20.0
    """How often the node looks at itself for changes to report."""

    @property
    def volume_drivers(self) -> Path:
        """Where the programs of volume drivers are."""
        return Path(self.volume_drivers_dir or self.state_dir / "volume-drivers")
