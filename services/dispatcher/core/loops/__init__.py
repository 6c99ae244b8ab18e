"""All control loops, in the order in which they plan; each sees what those before it decided in the same pass."""

from __future__ import annotations

from services.dispatcher.core.loops.allocate import Allocate
from services.dispatcher.core.loops.cron import CronRuns
from services.dispatcher.core.loops.enforce import Enforce
from services.dispatcher.core.loops.global_mode import GlobalMode
from services.dispatcher.core.loops.jobs import Jobs
from services.dispatcher.core.loops.networks import PredefinedNetworks
from services.dispatcher.core.loops.nodes import LostNodes
from services.dispatcher.core.loops.reap import Reap
from services.dispatcher.core.loops.rebalance import Rebalance
from services.dispatcher.core.loops.replicated import Replicated
from services.dispatcher.core.loops.restart import Restart
from services.dispatcher.core.loops.specs import SpecVersions
from services.dispatcher.core.loops.update import Update
from services.dispatcher.core.loops.versions import PayloadVersions
from services.dispatcher.core.loops.volumes import Volumes
from services.dispatcher.core.picture import Loop
from services.dispatcher.core.scheduling.scheduler import Scheduler
from services.dispatcher.core.tasks import NewId


def all_loops(new_id: NewId, first: tuple[Loop, ...] = ()) -> tuple[Loop, ...]:
    """Return fresh loops for one term. ``first`` is planned before all others: what was heard of nodes and tasks."""
    scheduler = Scheduler()
    return (
        *first,  # what is observed comes before what is decided on it
        PredefinedNetworks(),  # on its own
        LostNodes(),  # orphans are ended tasks to all others
        Allocate(),  # so that new tasks are born allocated
        Enforce(new_id),  # what must leave its node is given up and replaced in one step
        Restart(new_id),  # before the orchestrators, which would take an ended slot for an empty one
        Replicated(new_id),
        GlobalMode(new_id),
        CronRuns(),  # begins the runs
        Jobs(new_id),  # that these tasks are for
        Update(new_id),  # after the orchestrators: slots that are given up are not updated
        Rebalance(new_id, scheduler),  # after it as well: what is updated is not moved
        scheduler,  # places what the loops above made, in the same write
        Volumes(new_id),  # publishes what tasks were given with their nodes
        Reap(),  # deletes what the loops above gave up and no node holds
        SpecVersions(),  # after the tasks that referred to them
        PayloadVersions(),  # after the templates that did
    )
