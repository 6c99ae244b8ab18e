"""Has volume drivers do what volumes need, and answers users and agents about volumes. Decides nothing: core/volume_steps and core/loops/volumes do.

Part of a term: the leader's own machine must have the driver, for steps that belong to the swarm and not to a node. A step that fails is tried
again, later each time. Steps may be repeated, so that a new leader simply begins where the store stands.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from services.dispatcher.core import volume_steps as steps
from services.dispatcher.core.control import volumes as rules
from services.dispatcher.core.loops.volumes import taken_down
from services.dispatcher.shell.payloads import Change, Readable
from services.kit.bus.api import Context
from services.kit.bus.rpc import Table as Methods
from services.kit.errors import SwarmError, Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.messages import volumes as messages
from services.kit.messages.control import GetRequest, ListRequest
from services.kit.messages.method import Empty
from services.kit.model.ids import NodeId, VolumeId
from services.kit.model.objects import Object, Volume
from services.kit.model.volumes import VolumeInfo
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.runtime.volume_driver import (
    RETRY_FIRST_S,
    RETRY_MAX_S,
    DriverInfo,
    StepRequest,
    VolumeDriver,
    find_driver,
)
from services.kit.state.state import Event, State
from services.kit.state.tables import Table
from services.kit.state.transaction import Op, remove, update

if TYPE_CHECKING:
    from services.dispatcher.shell.term import Term

STEPS_AT_ONCE_MAX = 4
ATTEMPTS_MAX = 20


class VolumeWork:
    """The drivers' work of one term."""

    def __init__(self, term: Term, drivers_dir: Path) -> None:
        self._term = term
        self._drivers_dir = drivers_dir
        self._owner = TaskOwner("volumes")
        self._log = Log("volumes")
        self._at_once = asyncio.Semaphore(STEPS_AT_ONCE_MAX)
        self._busy: dict[VolumeId, asyncio.Event] = {}
        """Volumes that somebody works on; the event says that one has changed meanwhile."""

    def begin(self) -> None:
        """Look at every volume."""
        self._look(list(self._term.state.volumes))

    def absorb(self, events: Iterable[Event]) -> None:
        """Look at what has changed."""
        self._look([VolumeId(each.object.id) for each in events if each.table is Table.VOLUME])

    async def failed(self) -> BaseException:
        """Wait for a bug in here and return it."""
        return await self._owner.failed()

    async def close(self) -> None:
        """Stop, whatever is under way; drivers that run are killed."""
        await self._owner.close()

    async def unpublished(self, node: NodeId, volumes: Iterable[VolumeId]) -> None:
        """Take an agent's word that it has taken volumes down; return when it is stored."""
        for volume_id in volumes:
            await self._write(volume_id, lambda volume: taken_down(volume, node))

    def _look(self, volumes: Iterable[VolumeId]) -> None:
        for volume_id in volumes:
            changed = self._busy.get(volume_id)
            if changed is not None:
                changed.set()
            elif (volume := self._term.state.volumes.get(volume_id)) is not None and steps.next_step(volume):
                self._busy[volume_id] = asyncio.Event()
                self._owner.spawn(volume_id, self._work(volume_id))

    async def _work(self, volume_id: VolumeId) -> None:
        """Do one step after the other until there is none."""
        changed, delay_s = self._busy[volume_id], RETRY_FIRST_S
        try:
            while (volume := self._term.state.volumes.get(volume_id)) and (step := steps.next_step(volume)):
                changed.clear()
                try:
                    async with self._at_once:
                        await self._take(volume, step)
                    delay_s = RETRY_FIRST_S
                    continue
                except Unavailable as error:
                    self._term.fail(error)
                    return
                except SwarmError as error:
                    reason = str(error)
                    self._log.warning("volume step failed", volume=volume_id, step=type(step).__name__, cause=reason)
                    await self._note(volume_id, step, reason)
                # A user who changes the volume need not wait for the next attempt; our own note is no reason.
                changed.clear()
                try:
                    async with asyncio.timeout(delay_s):
                        await changed.wait()
                except TimeoutError:
                    delay_s = min(2 * delay_s, RETRY_MAX_S)
        finally:
            del self._busy[volume_id]

    async def _take(self, volume: Volume, step: steps.VolumeStep) -> None:
        """Have the driver take a step, and write what came of it."""
        driver = find_driver(self._drivers_dir, volume.spec.driver.name)
        info = await driver.info()
        match step:
            case steps.Create():
                found = await self._create(driver, info, volume)
                await self._write(volume.id, lambda each: steps.made(each, found))
            case steps.Attach(node):
                context = (await driver.step("attach", self._request(volume, node))).context if info.attaches else {}
                await self._write(volume.id, lambda v: steps.attached(v, node, context))
            case steps.Detach(node):
                if info.attaches and node in self._term.state.nodes:
                    await driver.step("detach", self._request(volume, node))
                await self._write(volume.id, lambda v: steps.detached(v, node))
            case steps.Delete():
                if info.controller and volume.info is not None:
                    await driver.step("delete", self._request(volume))
                await self._forget(volume.id)

    async def _create(self, driver: VolumeDriver, info: DriverInfo, volume: Volume) -> VolumeInfo:
        if not info.controller:
            return VolumeInfo(volume_id=volume.spec.annotations.name)
        answer = await driver.step("create", self._request(volume))
        return VolumeInfo(
            volume_id=answer.volume_id or volume.spec.annotations.name,
            capacity_bytes=answer.capacity_bytes,
            context=answer.context,
            accessible_topology=answer.accessible_topology,
        )

    def _request(self, volume: Volume, node: NodeId | None = None) -> StepRequest:
        spec, info = volume.spec, volume.info
        known = {} if node is None else {p.node_id: p.context for p in volume.publications}
        return StepRequest(
            name=spec.annotations.name,
            volume_id="" if info is None else info.volume_id,
            options=spec.driver.options,
            access_mode=spec.access_mode,
            capacity=spec.capacity,
            accessibility=spec.accessibility,
            secrets=self._secrets(volume),
            node_id="" if node is None else self._name_of(node, spec.driver.name),
            volume_context={} if info is None else info.context,
            publish_context={} if node is None else known.get(node, {}),
        )

    def _secrets(self, volume: Volume) -> dict[str, str]:
        found = self._term.state.secrets
        return {
            each.key: base64.b64encode(found[each.secret_id].spec.data).decode()
            for each in volume.spec.secrets
            if each.secret_id in found
        }

    def _name_of(self, node_id: NodeId, driver: str) -> str:
        """Return the driver's own name for a node, the node's id if it has none."""
        node = self._term.state.nodes.get(node_id)
        drivers = () if node is None else node.description.volume_drivers
        return next((each.node_id for each in drivers if each.name == driver and each.node_id), node_id)

    # -- the store

    async def _note(self, volume_id: VolumeId, step: steps.VolumeStep, reason: str) -> None:
        await self._write(volume_id, lambda volume: steps.failed(volume, step, reason))

    async def _forget(self, volume_id: VolumeId) -> None:
        await self._propose(volume_id, lambda volume: remove(volume) if volume.pending_delete else None)

    async def _write(self, volume_id: VolumeId, change: Callable[[Volume], Volume | None]) -> None:
        def op(volume: Volume) -> Op | None:
            fresh = change(volume)
            return None if fresh is None or fresh == volume else update(fresh)

        await self._propose(volume_id, op)

    async def _propose(self, volume_id: VolumeId, make: Callable[[Volume], Op | None]) -> None:
        """Write a change of a volume as it is now; made anew when others were faster."""
        term = self._term
        for _ in range(ATTEMPTS_MAX):
            volume = term.state.volumes.get(volume_id)
            op = None if volume is None else make(volume)
            if op is None:
                return
            result = await term.store.propose((op,), raise_conflict=False, cause="volumes")
            await term.reads.reached(result.version)
            if result.conflict is None:
                return


class VolumeRequests:
    """Answers users about volumes."""

    def __init__(self, runtime: Runtime, state: State, readable: Readable, change: Change) -> None:
        self._runtime = runtime
        self._state = state
        self._readable = readable
        self._change = change

    def serve(self, table: Methods) -> None:
        """Put the handlers into a table."""
        table.on_call(messages.LIST_VOLUMES, self._list)
        table.on_call(messages.GET_VOLUME, self._get)
        table.on_call(messages.CREATE_VOLUME, self._create)
        table.on_call(messages.UPDATE_VOLUME, self._update)
        table.on_call(messages.REMOVE_VOLUME, self._remove)

    async def _list(self, context: Context, request: ListRequest) -> messages.VolumeList:
        await self._readable(stale=request.stale)
        return messages.VolumeList(volumes=rules.list_volumes(self._state, request.filters))

    async def _get(self, context: Context, request: GetRequest) -> messages.VolumeReply:
        await self._readable(stale=request.stale)
        return messages.VolumeReply(volume=rules.find_volume(self._state, request.ref))

    async def _create(self, context: Context, request: messages.CreateVolumeRequest) -> messages.VolumeReply:
        fresh = self._runtime.ids.new("volume")
        return _reply(
            await self._change(
                context, lambda: rules.create_volume(self._state, request.spec, request.request_id, fresh)
            )
        )

    async def _update(self, context: Context, request: messages.UpdateVolumeRequest) -> messages.VolumeReply:
        return _reply(
            await self._change(
                context, lambda: rules.update_volume(self._state, request.volume_id, request.version, request.spec)
            )
        )

    async def _remove(self, context: Context, request: messages.RemoveVolumeRequest) -> Empty:
        await self._change(context, lambda: rules.remove_volume(self._state, request.volume_id, force=request.force))
        return Empty()


def _reply(thing: Object) -> messages.VolumeReply:
    assert isinstance(thing, Volume)
    return messages.VolumeReply(volume=thing)
