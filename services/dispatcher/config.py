"""Settings of the dispatcher process."""

from __future__ import annotations

from pathlib import Path

from services.kit.lifecycle.settings import ProcessSettings


class DispatcherSettings(ProcessSettings, frozen=True, kw_only=True):
    """What the dispatcher is told by its supervisor."""

    pass_interval_s: float = 0.005
    """While transactions are under way, passes of the loops are at least this far apart; when idle they are immediate."""
    routes_interval_s: float = 0.05
    """Changes of the route table are handed out at most this often; the first one after a pause is immediate."""
    propose_timeout_s: float = 10.0
    """A transaction without a result for this long ends the term: everything is read anew."""
    read_timeout_s: float = 5.0
    """Longest wait of a read for its version."""
    drain_s: float = 1.0
    """Calls under way get this long when the process stops."""
    volume_drivers_dir: str = ""
    """Where the programs of volume drivers are; empty means ``volume-drivers`` in the state directory."""

    @property
    def volume_drivers(self) -> Path:
        """Where the programs of volume drivers are."""
        return Path(self.volume_drivers_dir or self.state_dir / "volume-drivers")
