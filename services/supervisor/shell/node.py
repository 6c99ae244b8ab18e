"""The node: SwarmKit's Node object, with child processes where SwarmKit has goroutines.

``start`` once, ``stop`` as often as you like, ``ready`` and ``err`` to wait on. The manager half (raft, ca, dispatcher) runs while the
certificate says manager, the agent half (gateway, agent) always; a child that cannot be helped ends the whole node. What must stay
true: when ``closed`` is reached no child lives, no socket is open and the state directory is free.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from enum import StrEnum

import msgspec

from services.kit.bus.api import LocalAddress
from services.kit.bus.identity import Identity
from services.kit.bus.ports import node_ports
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import DataLoss, FailedPrecondition, PermissionDenied, SwarmError, Unavailable
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages import control
from services.kit.messages.method import MANAGER
from services.kit.messages.supervise import MetricsReport, NodeReport, StatusReply
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.model.tokens import parse_token
from services.kit.model.unlock_key import KEY_BYTES, parse_unlock_key
from services.kit.runtime.changes import Changes
from services.kit.runtime.clock import Clock
from services.kit.runtime.ids import IdSource
from services.kit.runtime.log import Log, set_node
from services.kit.runtime.sealed_key import unseal
from services.kit.runtime.tasks import TaskOwner
from services.supervisor.config import TICK_S, NodeSettings
from services.supervisor.core.identity import (
    Bootstrap,
    IdentityPlan,
    Join,
    Load,
    Refuse,
    cannot_force,
    lost_store,
    plan_identity,
)
from services.supervisor.core.plan import MANAGER_STOP_STAGES, STOP_STAGES, optional, wanted
from services.supervisor.shell.addresses import advertised, check_free
from services.supervisor.shell.board import Board
from services.supervisor.shell.certificate import CertificateKeeper
from services.supervisor.shell.children import Children, Command, child_environment, python_module
from services.supervisor.shell.enrolment import Enrolment
from services.supervisor.shell.front import Front
from services.supervisor.shell.known_managers import load_managers, save_managers
from services.supervisor.shell.layout import Layout
from services.supervisor.shell.metrics_door import METRICS_INTERVAL_S, MetricsDoor
from services.supervisor.shell.orphans import ChildrenLock

CONTROL_RETRY_S = 0.05


class NodeStage(StrEnum):
    """Where a node stands in its life; it only moves forward."""

    CREATED = "created"
    STARTED = "started"
    READY = "ready"
    STOPPED = "stopped"
    CLOSED = "closed"


class NodeEnded(SwarmError):
    """A child cannot go on, so the node does not either."""

    def __init__(self, exit_code: ExitCode, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class Node:
    """One node of a swarm, from start to closed."""

    def __init__(
        self,
        settings: NodeSettings,
        *,
        clock: Clock,
        ids: IdSource,
        rng: random.Random,
        command: Command = python_module,
    ) -> None:
        self.stage = NodeStage.CREATED
        self._settings = settings
        self._ids = ids
        self._log = Log("node")
        self._run_task = TaskOwner("node")
        self._work = TaskOwner("node")
        self._error: BaseException | None = None
        self._stop_wanted = asyncio.Event()
        self._given_up = asyncio.Event()
        self._was_ready = False
        self._moved = Changes()
        self.ports = node_ports(settings.listen_remote_api)
        remote_addr = advertised(self.ports.remote, settings.advertise_remote_api, settings.join_addr)
        self._layout = Layout(settings.state_dir)
        self._children_lock = ChildrenLock(self._layout.run_dir)
        self._bus = ZmqBus(process="supervisor", clock=clock)
        self._board = Board(certificates=self._layout.certificates, remote_addr=remote_addr)
        self._front = Front(self._board, self)
        self._metrics = MetricsDoor(self.status, clock)
        self._enrolment = Enrolment(self._layout.certificates, self._bus, ids=ids, rng=rng)
        self._keeper = CertificateKeeper(
            self._board,
            self._enrolment,
            clock=clock,
            rng=rng,
            adopt=lambda identity: self._adopt(identity, self._board.managers),
        )
        self._children = Children(
            clock=clock,
            rng=rng,
            run_dir=self._layout.run_dir,
            environment=child_environment(_told_to_children(settings, remote_addr)),
            lock=self._children_lock,
            changed=self._children_changed,
            gave_up=self._gave_up,
            command=command,
        )

    # -- for the owner

    def start(self) -> None:
        """Begin; returns at once. Raises FailedPrecondition the second time, also after a stop."""
        if self.stage is not NodeStage.CREATED:
            raise FailedPrecondition("the node was started already")
        self._move(NodeStage.STARTED)
        self._run_task.spawn("run", self._run())

    async def stop(self) -> None:
        """Stop in stages and wait until closed; idempotent. Raises FailedPrecondition before start."""
        if self.stage is NodeStage.CREATED:
            raise FailedPrecondition("the node was not started")
        self.begin_stop()
        await self.err()

    async def ready(self) -> None:
        """Wait until the node is ready; raises what ended it when that comes first."""
        while not self._was_ready:
            if self.stage is NodeStage.CLOSED:
                raise self._error or Unavailable("the node was stopped before it was ready")
            await self._moved.wait()

    async def err(self) -> BaseException | None:
        """Wait until the node is closed; returns what ended it, None after a stop that was asked for."""
        while self.stage is not NodeStage.CLOSED:
            await self._moved.wait()
        return self._error

    def force(self) -> None:
        """Kill every child on the spot; for a stop that takes longer than its user wants to wait."""
        self.begin_stop()
        self._children.kill()

    # -- told by the front

    @property
    def ready_children(self) -> frozenset[str]:
        """Children that serve."""
        return self._children.ready

    @property
    def known_managers(self) -> tuple[ManagerPeer, ...]:
        """Managers of the swarm, as heard last."""
        return self._board.facts.managers

    def child_serves(self, child: str) -> None:
        """A child reported that it serves."""
        self._log.debug("child serves", child=child)
        self._children.served(child)

    def managers_seen(self, managers: tuple[ManagerPeer, ...]) -> None:
        """Keep the list of managers and give it to every child."""
        if managers and self._board.set_managers(managers):
            save_managers(self._layout.state_file, self._board.managers)

    def node_seen(self, report: NodeReport) -> None:
        """Take what the swarm says of this node; another role is fetched with a fresh certificate."""
        self._keeper.hear(report)

    def measured(self, report: MetricsReport) -> None:
        """Keep what a child measures, for those who read it."""
        self._metrics.take(report)

    def status(self) -> StatusReply:
        """How the node is."""
        facts = self._board.facts
        identity = self._board.identity
        return StatusReply(
            node_id=facts.node_id,
            cluster_id=facts.cluster_id,
            role=facts.role,
            state="locked" if self._is_locked else self.stage.value,
            pid=os.getpid(),
            remote_addr=facts.remote_addr,
            control_socket=self._settings.control_socket,
            processes=self._children.statuses(),
            certificate_not_after=identity.not_after if identity else 0.0,
        )

    def unlock(self, key: bytes) -> None:
        """Take the key of a locked manager; raises PermissionDenied when it is a wrong one, FailedPrecondition when it is not locked."""
        sealed = self._layout.sealed_key()
        if not self._is_locked or not sealed:
            raise FailedPrecondition("this node is not locked")
        unseal(sealed, key)
        self._board.lock_under(key)

    @property
    def _is_locked(self) -> bool:
        """Tell whether this manager waits for its unlock key."""
        is_manager = self._board.role is Role.MANAGER
        return (
            is_manager and not self._board.unlock_keys and not self._children.names and bool(self._layout.sealed_key())
        )

    def begin_stop(self) -> None:
        """Set the stop going; idempotent."""
        self._stop_wanted.set()

    # -- life

    async def _run(self) -> None:
        """Live until a stop is wanted, a task fails or a child gives up; then take everything down again."""
        self._work.spawn("life", self._live())
        failures = (
            self._work.spawn("failure", self._work.failed()),
            self._work.spawn("broken", self._bus.failed()),
        )
        wishes = (
            self._work.spawn("stop", self._stop_wanted.wait()),
            self._work.spawn("given-up", self._given_up.wait()),
        )
        await asyncio.wait((*failures, *wishes), return_when=asyncio.FIRST_COMPLETED)
        for failure in failures:
            if failure.done() and self._error is None:
                self._error = failure.result()
        await self._work.close()
        self._move(NodeStage.STOPPED)
        await self._close()
        self._move(NodeStage.CLOSED)

    async def _live(self) -> None:
        self._layout.claim()
        await self._children_lock.acquire()
        check_free(self.ports)
        await self._front.open(self._bus, self._settings.supervisor_socket)
        await self._metrics.open(self._settings.listen_metrics)
        await self._enrol()
        if self._board.role is Role.WORKER:
            self._layout.clear_store()  # a demotion may have been cut short
        await self._until_unlocked()
        self._children.start((*wanted(self._board.role), *optional(listen_http=self._settings.listen_http)))
        self._work.spawn("certificate", self._keeper.run())
        self._work.spawn("confirmation", self._keeper.confirm())
        self._work.spawn("trust", self._keeper.mend_trust())
        self._work.spawn("halves", self._run_halves(self._board.role))
        await self._become_ready()

    async def _enrol(self) -> None:
        """Get an identity; children that will be needed in any case start meanwhile."""
        token = self._settings.join_token.get_secret_value()
        token_digest = parse_token(token).digest if token else ""
        found = self._enrolment.found(has_store=self._layout.has_store())
        plan = plan_identity(found, token_digest=token_digest)
        match plan:
            case Refuse(reason=reason):
                raise FailedPrecondition(reason)
            case Load():
                identity, managers = self._enrolment.load(), load_managers(self._layout.state_file)
                others = any(peer.node_id != identity.node_id for peer in managers)
                self._check_force(plan, identity)
                lost = lost_store(found, is_manager=identity.role == MANAGER, knows_others=others)
                if lost:
                    raise DataLoss(lost)
                self._adopt(identity, managers)
            case Bootstrap():
                if self._settings.autolock:
                    self._board.lock_under(self._ids.secret("unlock", KEY_BYTES))
                self._children.start(wanted(Role.MANAGER))
                self._board.begin_bootstrap()
                await self._until_ready("ca")
                self._adopt(await self._enrolment.bootstrap(self._socket("ca")), ())
            case Join():
                self._check_force(plan, None)
                self._children.start(wanted(None))
                identity, managers = await self._enrolment.join(
                    token=token,
                    addresses=self._settings.join_addr,
                    availability=self._settings.availability,
                    remote_addr=self._board.facts.remote_addr,
                )
                self._adopt(identity, managers)

    def _check_force(self, plan: IdentityPlan, identity: Identity | None) -> None:
        why_not = cannot_force(plan, is_manager=identity is not None and identity.role == MANAGER)
        if self._settings.force_new_cluster and why_not:
            raise FailedPrecondition(why_not)

    def _adopt(self, identity: Identity, managers: tuple[ManagerPeer, ...]) -> None:
        set_node(identity.node_id)
        self._bus.set_identity(identity)
        self._board.set_identity(identity)
        self._keeper.hold(identity)
        self.managers_seen(managers)
        self._log.info("identity", cluster=identity.cluster_id, role=identity.role)

    async def _until_unlocked(self) -> None:
        """Wait for the unlock key of a locked manager; nothing of it runs before."""
        if self._board.role is not Role.MANAGER or not self._layout.sealed_key():
            return
        given = self._settings.unlock_key.get_secret_value()
        if given:
            try:
                self.unlock(parse_unlock_key(given))
            except PermissionDenied as error:
                raise FailedPrecondition(str(error)) from None
        if not self._board.unlock_keys:
            self._log.warning("node is locked", remedy="supervisor unlock --state-dir DIR")
        while not self._board.unlock_keys:
            await self._board.changes.wait()
        self._log.info("node is unlocked")

    async def _until_ready(self, *names: str) -> None:
        while not self._children.ready.issuperset(names):
            await self._board.changes.wait()

    async def _become_ready(self) -> None:
        """Say once that the node is ready: every child serves, the agent is registered, and on a manager the control API answers."""
        while not self._children.ready.issuperset(wanted(self._board.role)):
            await self._board.changes.wait()
        await self._until_control_answers()
        self._was_ready = True
        self._move(NodeStage.READY)
        self._log.info("node is ready", addr=self._board.facts.remote_addr, control=self._settings.control_socket)

    async def _run_halves(self, role: Role | None) -> None:
        """Start and stop the manager half as the certificate's role says; the agent half runs on untouched."""
        while True:
            while self._board.role is role:
                await self._board.changes.wait()
            role = self._board.role
            self._log.info("role changed", role=role.value if role else "")
            if role is Role.MANAGER:
                self._children.start(wanted(role))
            else:
                await self._children.stop(MANAGER_STOP_STAGES)
                self._layout.clear_store()

    async def _until_control_answers(self) -> None:
        """Wait until a manager's control API answers; a worker has none."""
        while self._board.role is Role.MANAGER:
            try:
                connection = await self._bus.dial(LocalAddress(path=self._settings.control_socket))
                try:
                    await connection.call(control.GET_CLUSTER, control.GetRequest(ref="default"))
                finally:
                    await connection.close()
            except SwarmError as error:
                self._log.debug("control API does not answer yet", cause=str(error))
                await asyncio.sleep(CONTROL_RETRY_S)
            else:
                return

    async def _close(self) -> None:
        await self._children.stop(STOP_STAGES)
        await self._metrics.close()
        await self._front.close()
        await self._bus.close()
        if self._board.identity is None:
            self._layout.withdraw()
        self._children_lock.release()
        self._layout.release()

    def _move(self, stage: NodeStage) -> None:
        self.stage = stage
        self._log.debug("node moves on", stage=stage.value)
        self._moved.announce()

    def _socket(self, process: str) -> str:
        return str(self._layout.run_dir / f"{process}.sock")

    def _children_changed(self) -> None:
        self._board.changes.announce()

    def _gave_up(self, code: ExitCode, reason: str) -> None:
        self._log.error("node ends", cause=reason)
        self._error = self._error or NodeEnded(code, reason)
        self._given_up.set()


def _told_to_children(settings: NodeSettings, remote_addr: str) -> dict[str, str]:
    """Return the settings of the children as environment variables; each child reads what it has a field for."""
    generic = [part.strip() for part in settings.generic_node_resources.split(",") if part.strip()]
    return {
        "SWARMBUS_STATE_DIR": str(settings.state_dir),
        "SWARMBUS_LOG_LEVEL": settings.log_level,
        "SWARMBUS_METRICS_INTERVAL_S": str(METRICS_INTERVAL_S if settings.listen_metrics else 0.0),
        "SWARMBUS_HOSTNAME": settings.hostname or socket.gethostname(),
        "SWARMBUS_LISTEN_REMOTE_API": settings.listen_remote_api,
        "SWARMBUS_ADVERTISE_REMOTE_API": remote_addr,
        "SWARMBUS_LISTEN_CONTROL_API": settings.control_socket,
        "SWARMBUS_LISTEN_HTTP": settings.listen_http,
        "SWARMBUS_HTTP_TLS_DIR": settings.http_tls_dir,
        "SWARMBUS_HTTP_TOKEN_FILE": settings.http_token_file,
        "SWARMBUS_LISTEN_DISCOVERY": settings.listen_discovery,
        "SWARMBUS_LISTEN_DNS": settings.listen_dns,
        "SWARMBUS_MESH_PORT": str(settings.mesh_port),
        "SWARMBUS_DOCKER_SOCKET": settings.engine_addr.removeprefix("unix://"),
        "SWARMBUS_AVAILABILITY": settings.availability.value,
        "SWARMBUS_GENERIC_RESOURCES": msgspec.json.encode(generic).decode(),
        "SWARMBUS_FORCE_NEW_CLUSTER": str(settings.force_new_cluster).lower(),
        "SWARMBUS_HEARTBEAT_INTERVAL_S": str(round(settings.heartbeat_tick * TICK_S, 3)),
        "SWARMBUS_ELECTION_TIMEOUT_S": str(round(settings.election_tick * TICK_S, 3)),
    }
