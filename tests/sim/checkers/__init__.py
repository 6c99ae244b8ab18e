"""The promises, one file each. ``all_checkers`` makes one of each for a run; docs/reliability.md lists them."""

from __future__ import annotations

from tests.sim.checkers.bounds import Bounds
from tests.sim.checkers.gone import Gone
from tests.sim.checkers.jobs import Jobs
from tests.sim.checkers.leaders import Leaders
from tests.sim.checkers.observed import Observed
from tests.sim.checkers.placement import Placement
from tests.sim.checkers.ports import Ports
from tests.sim.checkers.reservations import Reservations
from tests.sim.checkers.routes import Routes
from tests.sim.checkers.secrets import Secrets
from tests.sim.checkers.slots import Slots
from tests.sim.checkers.states import States
from tests.sim.checkers.updates import Updates
from tests.sim.checkers.watches import Watches
from tests.sim.promise import Checker


def all_checkers() -> tuple[Checker, ...]:
    """Return a fresh checker for each promise that is watched during a run."""
    return (
        Bounds(),
        Gone(),
        Jobs(),
        Leaders(),
        Observed(),
        Placement(),
        Ports(),
        Reservations(),
        Routes(),
        Secrets(),
        Slots(),
        States(),
        Updates(),
        Watches(),
    )
