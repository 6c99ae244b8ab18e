"""Many agents in one process, for benches: each enrols, dials and reports like a node of its own, and runs nothing.

A process of its own, so that its share of the machine can be told apart: ``python -m tests.support.fake_agents ADDRESS TOKEN COUNT DIRECTORY``.
Every agent has its own bus, key and certificate; it answers each message with one batch of statuses, the last one of every task. Prints
"joined" when all are registered, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import msgspec

from services.kit.bus.api import Connection, RemoteAddress
from services.kit.bus.ports import parse_address
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import SwarmError
from services.kit.messages import session
from services.kit.model.objects import ManagerPeer, NodeDescription, PortStatus, Task, TaskStatus
from services.kit.model.specs import Resources
from services.kit.model.states import Availability, TaskState
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.ids import SystemIds
from services.kit.runtime.tasks import TaskOwner
from services.supervisor.shell.enrolment import Enrolment

_replace = msgspec.structs.replace
JOIN_AT_ONCE = 8


class FakeAgent:
    """One node."""

    def __init__(self, number: int, directory: Path) -> None:
        self.name = f"fake-{number:03}"
        self._directory = directory / self.name
        self._bus = ZmqBus(clock=SystemClock(), process="agent")
        self._managers: tuple[ManagerPeer, ...] = ()
        self.registered = asyncio.Event()

    async def join(self, address: str, token: str) -> None:
        """Come by a certificate, as a supervisor does."""
        self._directory.mkdir(parents=True)
        enrolment = Enrolment(self._directory, self._bus, ids=SystemIds(), rng=random.Random(self.name))
        identity, self._managers = await enrolment.join(
            token=token, addresses=(address,), availability=Availability.ACTIVE, remote_addr=""
        )
        self._bus.set_identity(identity)

    async def run(self) -> None:
        """Be an agent until cancelled."""
        peer = self._managers[0]
        host, port = parse_address(peer.addr)
        connection = await self._bus.dial(RemoteAddress(host=host, port=port, certificate=peer.certificate))
        description = NodeDescription(
            hostname=self.name, drivers=("fake",), resources=Resources(nano_cpus=10**12, memory_bytes=1 << 40)
        )
        async with connection.open(session.SESSION, session.SessionRequest(description=description)) as messages:
            first = await anext(messages)
            async with TaskOwner(self.name) as owner:
                owner.spawn("assignments", self._follow(connection, first))
                owner.spawn("beats", self._beat(connection, first))
                self.registered.set()
                async for _ in messages:
                    pass

    async def _beat(self, connection: Connection, first: session.SessionMessage) -> None:
        while True:
            reply = await connection.call(session.HEARTBEAT, session.Heartbeat(session_id=first.session_id))
            await asyncio.sleep(reply.period_s * 0.8)

    async def _follow(self, connection: Connection, first: session.SessionMessage) -> None:
        request = session.AssignmentsRequest(session_id=first.session_id)
        tasks: dict[str, Task] = {}
        async with connection.open(session.ASSIGNMENTS, request) as items:
            async for item in items:
                for task_id in item.removed_tasks:
                    tasks.pop(task_id, None)
                updates = []
                for assigned in item.tasks:
                    task = assigned.task
                    status = _next(tasks.get(task.id, task).status, task)
                    if status is not None:
                        updates.append(session.StatusUpdate(task_id=task.id, status=status))
                        task = _replace(task, status=status)
                    tasks[task.id] = task
                if updates:
                    report = session.UpdateTaskStatus(session_id=first.session_id, updates=tuple(updates))
                    await connection.call(session.UPDATE_STATUS, report)

    async def close(self) -> None:
        """Release everything."""
        await self._bus.close()


def _next(status: TaskStatus, task: Task) -> TaskStatus | None:
    if status.state.terminal:
        return None
    if task.desired_state > TaskState.COMPLETE:
        return _replace(status, state=TaskState.SHUTDOWN)
    if task.desired_state is TaskState.READY:
        return _replace(status, state=TaskState.READY) if status.state < TaskState.READY else None
    if status.state < TaskState.RUNNING:
        return _replace(status, state=TaskState.RUNNING, ports=(PortStatus(target_port=80, port=20_000),))
    return None


async def main(address: str, token: str, count: int, directory: Path) -> None:
    """Run the agents until standard input ends."""
    agents = [FakeAgent(number, directory) for number in range(count)]
    gate = asyncio.Semaphore(JOIN_AT_ONCE)

    async def join(agent: FakeAgent) -> None:
        async with gate:
            await agent.join(address, token)

    await asyncio.gather(*(join(agent) for agent in agents))
    async with TaskOwner("agents") as owner:
        for agent in agents:
            owner.spawn(agent.name, agent.run())
        failed = owner.spawn("failed", owner.failed())
        ready = owner.spawn("ready", _all_registered(agents))
        await asyncio.wait((failed, ready), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            raise failed.result()
        sys.stdout.write("joined\n")
        sys.stdout.flush()
        ended = owner.spawn("stdin", asyncio.to_thread(sys.stdin.read))
        await asyncio.wait((failed, ended), return_when=asyncio.FIRST_COMPLETED)
        if failed.done() and isinstance(failed.result(), SwarmError):
            sys.stderr.write(f"an agent failed: {failed.result()}\n")
    for agent in agents:
        await agent.close()


async def _all_registered(agents: list[FakeAgent]) -> None:
    for agent in agents:
        await agent.registered.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])))
