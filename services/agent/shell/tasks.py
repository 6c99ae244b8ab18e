"""Runs the tasks: feeds each task's machine, carries its verbs to a driver, keeps what it reports. Decides nothing.

Order that must stay true: a status is on disk, together with the driver's handle, before the dispatcher hears of it; a cancelled verb
has come back before the next one of the same task starts; every stored task is adopted before a new one is taken on.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.agent.core import task as life
from services.agent.core import worker as work
from services.agent.core.bundle import NodeFacts
from services.agent.core.now import Now
from services.agent.core.outcome import Handle
from services.agent.core.resources import holder
from services.agent.core.task import TaskMachine, Verb
from services.agent.core.templates import TemplateError
from services.agent.core.worker import MissingDependency, Worker
from services.agent.drivers.api import (
    AlreadyPrepared,
    AlreadyStarted,
    Controller,
    Driver,
    Exit,
    Failed,
    Recovered,
    SupportsProgress,
    TaskGone,
    Temporary,
)
from services.agent.shell.database import StatusWrite, StoredTask, TaskDatabase
from services.agent.shell.drivers import Drivers, NoSuchDriver
from services.agent.shell.health import Health
from services.agent.shell.outbox import Outbox
from services.kit.errors import SwarmError
from services.kit.messages.session import Assignments
from services.kit.model.ids import TaskId, VolumeId
from services.kit.model.objects import SpecVersion, Task, TaskStatus
from services.kit.model.specs import ContainerSpec
from services.kit.model.states import TaskState
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner

DISK_RETRY_S = 1.0
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_NEEDS_ALL = frozenset({Verb.PREPARE, Verb.START})


@dataclass(slots=True, eq=False)
class _Entry:
    """One task in our hands."""

    task: Task
    spec: SpecVersion
    machine: TaskMachine
    kept: TaskStatus
    """The newest status that is on disk, and may be told."""
    controller: Controller | None = None
    verb: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    followers: set[asyncio.Event] = field(default_factory=set)


class Tasks:
    """All tasks of this node."""

    def __init__(
        self,
        *,
        clock: Clock,
        owner: TaskOwner,
        drivers: Drivers,
        database: TaskDatabase,
        node: NodeFacts,
        outbox: Outbox,
        health: Health,
        volume_path: Callable[[VolumeId], str] = lambda _: "",
        on_forget: Callable[[], None] = lambda: None,
    ) -> None:
        """``volume_path`` says where a cluster volume is on this node; ``on_forget`` is told when tasks end or go."""
        self._clock = clock
        self._owner = owner
        self._drivers = drivers
        self._database = database
        self._node = node
        self._outbox = outbox
        self._health = health
        self._volume_path = volume_path
        self._on_forget = on_forget
        self._log = Log("tasks")
        self._worker = Worker()
        self._entries: dict[TaskId, _Entry] = {}
        self._changed: dict[TaskId, StatusWrite] = {}
        self._forgotten: set[TaskId] = set()
        self._unkept: deque[tuple[tuple[TaskId, ...], tuple[tuple[Task, SpecVersion], ...]]] = deque()
        """Assignments that the disk has not taken yet: removals and additions, oldest first."""
        self._returned: dict[TaskId, work.Add] = {}
        self._orphans: dict[TaskId, tuple[Driver, Recovered]] = {}
        self._dirty = asyncio.Event()

    # -- what the app calls --

    async def adopt(self, stored: tuple[StoredTask, ...]) -> None:
        """Take back the tasks of an earlier run, with what the drivers found of them."""
        found = await self._drivers.recover()
        self._worker = Worker((item.task, item.spec) for item in stored if not item.taken_away)
        self._owner.spawn("keeper", self._keep())
        for item in stored:
            held = found.pop(item.task.id, None)
            handle = item.handle or (held[1].handle if held else None)
            entry = self._take_on(item.task, item.spec, item.status, handle)
            if item.taken_away:
                self._step(entry, life.TakenAway())
            else:
                self._step(entry, life.Begin())
        self._orphans.update(found)
        self._log.info("tasks adopted", tasks=len(stored), orphans=len(found))

    async def look_for_orphans(self) -> None:
        """Ask drivers that became healthy what they hold, and discard what is not ours."""
        self._orphans.update(await self._drivers.recover())
        self._discard_orphans()

    def apply(self, message: Assignments) -> str | None:
        """Take over assignments; returns why the full set is needed again, or None."""
        actions = self._worker.apply(message)
        added: list[tuple[Task, SpecVersion]] = []
        removed: list[TaskId] = []
        for action in actions:
            match action:
                case work.Resync(reason):
                    return reason
                case work.Add(task, spec):
                    added.append((task, spec))
                case work.Change(task):
                    added.append((task, self._entries[task.id].spec))
                case work.Remove(task_id):
                    removed.append(task_id)
        self._unkept.append((tuple(removed), tuple(added)))
        try:
            self._keep_assignments()
        except sqlite3.OperationalError as error:
            # What runs meanwhile is found again by its driver; nothing is reported before all is kept.
            self._log.error("cannot keep assignments", reason=str(error))
            self._dirty.set()
        for action in actions:
            self._do(action)
        self._discard_orphans()
        return None

    def statuses(self) -> list[tuple[TaskId, TaskStatus]]:
        """Return the newest kept status of every task that is assigned here."""
        return [(task_id, entry.kept) for task_id, entry in self._entries.items() if task_id in self._worker]

    def used_volumes(self) -> set[VolumeId]:
        """Return the cluster volumes of tasks that have not ended."""
        return {
            use.volume_id
            for entry in self._entries.values()
            if entry.task.volumes and not entry.machine.status.state.terminal
            for use in entry.task.volumes
        }

    def secret_data(self) -> Mapping[str, bytes]:
        """Return the data of every secret that was given to this node, by id."""
        return self._worker.secret_data()

    def find(self, task_id: TaskId) -> tuple[Task, TaskState] | None:
        """Return a task and its observed state."""
        entry = self._entries.get(task_id)
        return None if entry is None else (entry.task, entry.machine.status.state)

    async def controller(self, task_id: TaskId) -> Controller:
        """Return a task's controller once the task was started; raises TaskGone when there will be none."""
        while True:
            entry = self._entries.get(task_id)
            if entry is None:
                raise TaskGone(f"task {task_id} is not on this node")
            if entry.machine.handle is not None:
                return await self._controller(entry, partial=True)
            if entry.machine.status.state.terminal:
                raise TaskGone(f"task {task_id} never started")
            moved = asyncio.Event()
            entry.followers.add(moved)
            try:
                await moved.wait()
            finally:
                entry.followers.discard(moved)

    def describe(self) -> list[dict[str, str | int]]:
        """Return a plain tree for people and tests."""
        return [entry.machine.describe() for _, entry in sorted(self._entries.items())]

    async def close(self) -> None:
        """Cancel all verbs, keep what is left to keep, drop the controllers; the tasks run on."""
        verbs = [entry.verb for entry in self._entries.values() if entry.verb is not None]
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        for verb in verbs:
            verb.cancel()
        await asyncio.gather(*verbs, return_exceptions=True)
        try:
            self._write()
        except sqlite3.OperationalError as error:
            # Nothing of it was reported: the next agent sees the same again.
            self._log.error("cannot keep task statuses", reason=str(error))
        for entry in self._entries.values():
            if entry.controller is not None:
                await entry.controller.close()

    # -- assignments --

    def _do(self, action: work.WorkerAction) -> None:
        match action:
            case work.Add(task, spec):
                if task.id in self._entries:
                    self._returned[task.id] = action  # its removal is under way: it begins anew after that
                else:
                    held = self._orphans.pop(task.id, None)  # known to the driver, but not to the database
                    handle = held[1].handle if held else None
                    self._step(self._take_on(task, spec, task.status, handle), life.Begin())
            case work.Change(task):
                entry = self._entries[task.id]
                entry.task = task
                self._step(entry, life.Desire(task.desired_state))
            case work.Remove(task_id):
                self._returned.pop(task_id, None)
                self._step(self._entries[task_id], life.TakenAway())
            case work.Resync():
                raise AssertionError("a gap changes nothing")

    def _take_on(self, task: Task, spec: SpecVersion, status: TaskStatus, handle: Handle | None) -> _Entry:
        machine = TaskMachine(task.id, desired=task.desired_state, status=status, handle=handle)
        entry = self._entries[task.id] = _Entry(task, spec, machine, status)
        return entry

    def _discard_orphans(self) -> None:
        if not self._worker.complete:
            return
        for task_id, (driver, orphan) in sorted(self._orphans.items()):
            if task_id not in self._entries:
                self._owner.spawn(f"discard {task_id}", self._discard(driver, orphan))
        self._orphans.clear()

    async def _discard(self, driver: Driver, orphan: Recovered) -> None:
        self._log.warning("orphan discarded", task=orphan.task_id, driver=driver.name, running=orphan.running)
        try:
            await driver.discard(orphan)
        except SwarmError as error:
            self._log.error("orphan left behind", task=orphan.task_id, driver=driver.name, reason=str(error))

    # -- machines --

    def _step(self, entry: _Entry, event: life.Event) -> None:
        now = Now(self._clock.monotonic(), self._clock.wall())
        cancelled: asyncio.Task[None] | None = None
        for action in entry.machine.step(now, event):
            match action:
                case life.Cancel():
                    cancelled = entry.verb
                    if cancelled is not None:
                        cancelled.cancel()
                case life.Run(verb):
                    entry.verb = self._owner.spawn(f"{verb} {entry.task.id}", self._run(entry, verb, cancelled))
                case life.Report(status, handle):
                    self._changed[entry.task.id] = StatusWrite(entry.task.id, status, handle)
                    if entry.task.volumes and status.state.terminal:
                        self._on_forget()
                    self._dirty.set()
                    self._log.debug(
                        "task moved",
                        task=entry.task.id,
                        state=status.state.name,
                        message=status.message,
                        error=status.error,
                    )
                case life.Forget(left_behind):
                    self._forget(entry, left_behind)
        for follower in entry.followers:
            follower.set()
        self._arm(entry)

    def _arm(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        deadline = entry.machine.deadline()
        if deadline is not None and self._entries.get(entry.task.id) is entry:
            delay_s = max(0.0, deadline - self._clock.monotonic())
            entry.timer = asyncio.get_running_loop().call_later(delay_s, self._step, entry, life.Due())

    def _forget(self, entry: _Entry, left_behind: str) -> None:
        if left_behind:
            self._log.error("task left behind", task=entry.task.id, reason=left_behind)
        del self._entries[entry.task.id]
        if entry.task.volumes:
            self._on_forget()
        self._changed.pop(entry.task.id, None)
        returned = self._returned.pop(entry.task.id, None)
        if returned is None:
            self._forgotten.add(entry.task.id)
            self._dirty.set()
        else:
            self._step(self._take_on(returned.task, returned.spec, returned.task.status, None), life.Begin())

    # -- verbs --

    async def _run(self, entry: _Entry, verb: Verb, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await asyncio.wait({after})
        event = await self._outcome(entry, verb)
        entry.verb = None
        self._step(entry, event)

    async def _outcome(self, entry: _Entry, verb: Verb) -> life.Event:
        """Carry a verb to the driver; whatever it raises becomes an event."""
        try:
            return await self._perform(entry, verb)
        except AlreadyPrepared:
            return life.Prepared()
        except Temporary as error:
            return life.Erred(str(error), retry_after_s=error.retry_after_s)
        except MissingDependency as error:
            return life.Erred(str(error), retry_after_s=0.0)
        except TimeoutError:
            return life.Erred(f"{verb} timed out", retry_after_s=0.0)
        except (NoSuchDriver, TemplateError) as error:
            return life.Removed() if verb is Verb.REMOVE else life.Erred(str(error))
        except Failed as error:
            return life.Erred(str(error), exit=error.end)
        except SwarmError as error:
            return life.Erred(str(error))
        except OSError as error:
            # A disk that is full or a table that is: it may have room again.
            return life.Erred(str(error), retry_after_s=DISK_RETRY_S if error.errno in _PASSING else None)
        except Exception as error:  # noqa: BLE001 - the wall between us and a driver: its bug ends the task, not the node
            self._log.crash("driver broke", error, task=entry.task.id, driver=entry.spec.task.driver, verb=verb.value)
            return life.Erred(f"the {entry.spec.task.driver} driver broke in {verb}: {type(error).__name__}: {error}")

    async def _perform(self, entry: _Entry, verb: Verb) -> life.Event:
        controller = await self._controller(entry, partial=verb not in _NEEDS_ALL)
        container = entry.spec.task.container
        match verb:
            case Verb.PREPARE:
                self._health.admit(controller, entry.spec.task.driver, container)
                await controller.prepare()
                return life.Prepared()
            case Verb.START:
                self._claim(entry)
                return await self._start(controller, container)
            case Verb.READY:
                await self._health.served(controller, container)
                return life.Served(await controller.inspect())
            case Verb.WAIT:
                return life.Ended(await self._health.ended(controller, container))
            case Verb.SHUTDOWN:
                await controller.shutdown(container.stop_grace_period_s)
                return life.Stopped(await self._end_of(entry, controller))
            case Verb.REMOVE:
                await controller.remove()
                await controller.close()
                return life.Removed()

    def _claim(self, entry: _Entry) -> None:
        """Make sure that nobody still has what the task was dealt; raises Temporary."""
        started = (
            (other.task.id, other.task.generic)
            for other in self._entries.values()
            if other is not entry and TaskState.STARTING <= other.machine.status.state <= TaskState.RUNNING
        )
        if (held := holder(entry.task.generic, started)) is not None:
            raise Temporary(f"{held[0]} is still in the hands of task {held[1]}")

    async def _start(self, controller: Controller, container: ContainerSpec) -> life.Started:
        try:
            handle = await controller.start()
        except AlreadyStarted as error:
            handle = error.handle
        return life.Started(handle, await controller.inspect(), gated=self._health.gates(controller, container))

    async def _end_of(self, entry: _Entry, controller: Controller) -> Exit | None:
        if entry.machine.status.state < TaskState.STARTING:
            return None
        try:
            return await controller.wait()
        except TaskGone:
            return None

    async def _controller(self, entry: _Entry, *, partial: bool) -> Controller:
        if entry.controller is None:
            driver = self._drivers.find(entry.spec.task.driver)
            bundle = self._worker.bundle(
                entry.task, entry.spec, self._node, volume_path=self._volume_path, partial=partial
            )
            entry.controller = await driver.controller(bundle, entry.machine.handle)
            if isinstance(entry.controller, SupportsProgress):
                entry.controller.on_progress(lambda message: self._step(entry, life.Progress(message)))
        return entry.controller

    # -- keeping --

    async def _keep(self) -> None:
        """Write what changed, then let it be reported; a disk that refuses is tried again, and nothing is reported meanwhile."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                self._write()
            except sqlite3.OperationalError as error:
                self._log.error("cannot keep task statuses", reason=str(error))
                self._dirty.set()
                await asyncio.sleep(DISK_RETRY_S)

    def _keep_assignments(self) -> None:
        while self._unkept:
            removed, added = self._unkept[0]
            self._database.take_away(removed)
            self._database.add(added)
            self._unkept.popleft()

    def _write(self) -> None:
        self._keep_assignments()
        if not self._changed and not self._forgotten:
            return
        self._database.write(self._changed.values(), self._forgotten)
        written, self._changed = self._changed, {}
        self._forgotten.clear()
        for task_id, write in written.items():
            if (entry := self._entries.get(task_id)) is not None:
                entry.kept = write.status
        self._outbox.put((task_id, write.status) for task_id, write in written.items() if task_id in self._worker)
