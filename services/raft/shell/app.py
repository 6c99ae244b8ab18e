"""The raft process: recovers or founds or joins, serves its node's processes and the other members, and keeps the member turning."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from services.kit.bus.api import Context, Listener
from services.kit.bus.identity import load_identity
from services.kit.bus.ports import node_ports
from services.kit.bus.rpc import Table
from services.kit.bus.session import ManagerLink
from services.kit.errors import DataLoss, InvalidArgument, SwarmError, Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.messages import consensus, store
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.files import REAL_DISK, Disk, FileLock, make_directory
from services.kit.runtime.log import Log
from services.kit.runtime.tasks import TaskOwner
from services.kit.store.line import BackOff
from services.raft.config import RaftSettings
from services.raft.core.members import MemberRecord
from services.raft.shell.compaction import Compaction
from services.raft.shell.driver import Driver
from services.raft.shell.keys import FileKey
from services.raft.shell.library import Timing
from services.raft.shell.links import KNOWN_BY_KEY_S, Links
from services.raft.shell.member import Member
from services.raft.shell.recovery import (
    Incarnation,
    Recovered,
    allow_force,
    force_new_cluster,
    found_cluster,
    lost_log,
    recover,
)
from services.raft.shell.roster import Roster
from services.raft.shell.service import StoreService
from services.raft.shell.transfer import SnapshotTransfer

DATA_KEY_FILE = "data.key"
HELLO_INTERVAL_S = 0.5
HAND_OVER_S = 2.0
"""Longest time that a stopping leader waits for another one."""
REGISTERED_S = 5.0
"""How long a change that a leader has acknowledged may take to arrive here before it is asked again."""
ANSWER_FOR_S = 10.0
"""How long somebody who introduced himself and is not known here is linked to after his last word."""
REFUSE_FOR_S = 10.0
"""How long a stranger is linked to, so that he can be told that he is no member."""


class RaftApp:
    """One run of the raft process."""

    def __init__(self, settings: RaftSettings, runtime: Runtime, *, disk: Disk = REAL_DISK) -> None:
        self._disk = disk
        self._settings = settings
        self._runtime = runtime
        self._log = Log("raft")
        self._directory: Path = settings.state_dir / "raft"
        self._tasks = TaskOwner("raft")
        self._lock = FileLock(self._directory / "lock", "raft")
        self._listeners: list[Listener] = []
        self._strangers: dict[NodeId, tuple[MemberRecord, float]] = {}
        self._introduced: dict[NodeId, MemberRecord] = {}
        self._recovered: Recovered | None = None

    # -- life

    async def start(self) -> None:
        """Recover, listen, and begin to turn."""
        make_directory(self._directory)
        self._lock.acquire()
        entropy = partial(self._runtime.ids.secret, "raft")
        unlock_keys = self._runtime.node.facts.unlock_keys
        keys = self._keys = FileKey(self._directory / DATA_KEY_FILE, entropy, self._disk, unlock_keys=unlock_keys)
        recovered = self._recovered = recover(self._directory, keys, entropy, self._disk)
        incarnation = Incarnation(self._directory, recovered.log, self._runtime.node.facts.node_id, entropy)
        self._record = self._own_record(incarnation.value)
        self._settle_members(recovered, incarnation)
        incarnation.keep(self._disk)
        self._build(recovered)
        await self._listen()
        self._tasks.spawn("turns", self._driver.run())
        self._tasks.spawn("links", self._follow_links())
        self._tasks.spawn("hello", self._say_hello())
        self._tasks.spawn("snapshots", self._compaction.run())
        self._tasks.spawn("fetch", self._transfer.run())
        self._tasks.spawn("own record", self._keep_record())
        self._tasks.spawn("lock", self._keep_locked())
        self._log.info("store serves", members=len(self._member.member_ids), index=recovered.log.entries.last)

    async def serve(self) -> None:
        """Go on until something breaks."""
        raise await self._tasks.failed()

    async def stop(self) -> None:
        """Hand leadership over if there is somebody to take it, then close."""
        if self._listeners and self._member.leads and len(self._member.member_ids) > 1:
            try:
                async with asyncio.timeout(HAND_OVER_S):
                    await self._roster.transfer(None)
            except (SwarmError, TimeoutError) as error:
                self._log.info("leadership not handed over", reason=str(error))
        for listener in self._listeners:
            await listener.close()
        await self._tasks.close()
        if self._listeners:
            self._transfer.close()
        if self._recovered is not None:
            self._recovered.log.close()
        self._lock.release()

    # -- building

    def _settle_members(self, recovered: Recovered, incarnation: Incarnation) -> None:
        """Found a cluster or force one, when that is what is wanted; a joiner just waits for the log."""
        force = self._settings.force_new_cluster
        if not force:
            allow_force(self._directory)
        others = [peer for peer in self._runtime.node.facts.managers if peer.node_id != self._record.node_id]
        fresh = not len(recovered.log.entries)
        if incarnation.log_is_lost and (fresh if force else not others):
            raise DataLoss(lost_log(self._directory, recovered.snapshot_index))
        if incarnation.log_is_lost:
            self._log.warning("the log is lost, this manager begins anew", snapshot=recovered.snapshot_index)
        if fresh and not others:
            found_cluster(recovered.log, self._record)
        elif not fresh and force:
            forced = force_new_cluster(self._directory, recovered.log, self._record, self._disk)
            self._log.warning("new cluster forced" if forced else "new cluster was forced before, nothing done")

    def _build(self, recovered: Recovered) -> None:
        settings = self._settings
        timing = Timing(
            election_timeout_min_s=settings.election_timeout_s,
            election_timeout_max_s=settings.election_timeout_s * 2,
            heartbeat_s=settings.heartbeat_s,
            quorum_timeout_s=max(settings.quorum_timeout_s, settings.election_timeout_s * 2),
        )
        self._member = Member(
            record=self._record,
            run=self._runtime.ids.new("run"),
            log=recovered.log,
            machine=recovered.machine,
            timing=timing,
            clock=self._runtime.clock,
            post=self._post,
        )
        self._driver = Driver(self._member, heartbeat_s=settings.heartbeat_s)
        self._links = Links(self._runtime.bus, self._tasks, on_up=self._link_up, on_down=self._member.link_down)
        self._roster = Roster(
            self._driver, self._links, join_timeout_s=settings.join_timeout_s, follow=self._want_links
        )
        self._snapshots = recovered.snapshots
        self._transfer = SnapshotTransfer(self._driver, self._links, recovered.snapshots)
        self._compaction = Compaction(
            self._driver,
            recovered.snapshots,
            self._keys,
            last_index=recovered.snapshot_index,
            log_bytes=settings.snapshot_log_bytes,
        )
        self._member.intake.on_behind = self._transfer.want
        self._member.intake.on_stranger = self._refuse
        self._member.intake.on_introduced = self._introduce
        if self._member.member_ids == {self._member.me}:
            self._member.consensus.campaign_soon()

    async def _listen(self) -> None:
        inside = Table(trusted=True)
        StoreService(self._driver, self._roster, self._runtime.clock).register(inside)
        among_members = Table()
        among_members.on_cast(consensus.RAFT, self._take)
        among_members.on_cast(consensus.REFUSED, self._take_refusal)
        among_members.on_feed(consensus.SNAPSHOT, self._transfer.serve)
        bus, listen = self._runtime.bus, self._settings.listen
        port = await bus.listen_remote(listen.host, listen.port, among_members, grace_s=KNOWN_BY_KEY_S)
        self._listeners.append(port)
        self._tasks.spawn("revocations", self._refuse_removed_nodes(port))
        self._listeners.append(await bus.listen_local(self._settings.socket("raft"), inside))

    def _own_record(self, incarnation: str) -> MemberRecord:
        facts = self._runtime.node.facts
        mine = next((peer.certificate for peer in facts.managers if peer.node_id == facts.node_id), b"")
        remote = node_ports(facts.remote_addr or self._settings.listen_remote_api)
        return MemberRecord(
            node_id=facts.node_id,
            incarnation=incarnation,
            raft_addr=str(remote.raft),
            remote_addr=str(remote.remote),
            certificate=mine or load_identity(facts.certificates_dir).certificate,
        )

    # -- peers

    def _take(self, context: Context, message: consensus.RaftMessage) -> None:
        self._member.receive(NodeId(context.peer.node_id), message.message)
        self._driver.wake()

    def _take_refusal(self, context: Context, refused: consensus.Refused) -> None:
        peer = NodeId(context.peer.node_id)
        self._log.warning("refused by a member", peer=peer, reason=refused.reason)
        if refused.removed and peer in self._member.member_ids:
            self._member.expelled = True
            self._driver.wake()

    def _post(self, peer: NodeId, data: bytes) -> bool:
        return self._links.send(peer, data)

    def _link_up(self, peer: NodeId) -> None:
        self._member.link_up(peer)
        self._driver.wake()

    def _introduce(self, record: MemberRecord) -> None:
        self._introduced[record.node_id] = record
        self._want_links()

    def _refuse(self, node_id: NodeId, reason: str) -> None:
        """Tell a stranger, for a while; somebody of whom no address is known cannot be told."""
        configuration = self._member.log.membership.latest
        record = configuration.removed.get(node_id) or configuration.members.get(node_id)
        if record is not None and node_id not in self._strangers:
            self._strangers[node_id] = (record, self._runtime.clock.monotonic() + REFUSE_FOR_S)
            self._want_links()
        self._links.refuse(node_id, reason, removed=node_id in configuration.removed)

    def _want_links(self) -> None:
        member = self._member
        now = self._runtime.clock.monotonic()
        self._strangers = {peer: known for peer, known in self._strangers.items() if known[1] > now}
        wanted = {peer: record for peer, (record, _) in self._strangers.items()}
        wanted |= member.observers
        wanted |= member.log.membership.latest.members
        self._introduced = {
            peer: record
            for peer, record in self._introduced.items()
            if now - member.peers.heard_at(peer) < ANSWER_FOR_S
        }
        wanted |= {
            peer: record
            for peer, record in self._introduced.items()
            if peer not in wanted or peer == member.consensus.leader
        }
        wanted.pop(member.me, None)
        self._links.want(wanted)

    async def _follow_links(self) -> None:
        """Have links to whom there should be."""
        while True:
            self._want_links()
            await self._driver.status_changed.wait()

    async def _say_hello(self) -> None:
        """Greet everybody now and then, and give up links whose other end is silent."""
        while True:
            await asyncio.sleep(HELLO_INTERVAL_S)
            for peer in self._links.up:
                self._member.greet(peer)
            for peer in self._member.silent_links():
                await self._links.redial(peer)
            self._want_links()

    async def _refuse_removed_nodes(self, port: Listener) -> None:
        """Cut off whoever was removed from the swarm as soon as this member's state says so, and let no more of them in."""
        refused: set[bytes] = set()
        while True:
            cluster = self._member.machine.state.cluster
            for node in cluster.revoked if cluster is not None else ():
                if node.public_key not in refused:
                    refused.add(node.public_key)
                    port.revoke(node.public_key)
                    self._log.info("key revoked", removed=node.node_id)
            await self._driver.stepped.wait()

    async def _keep_locked(self) -> None:
        """Have the data key sealed as the cluster wants it now, not as it wanted it somewhere in a log that is being read again."""
        member = self._member
        while True:
            cluster = member.machine.state.cluster
            is_current = cluster is not None and member.machine.applied_index == member.log.entries.last
            if cluster is not None and is_current and cluster.unlock_key != self._keys.sealed_under:
                await self._runtime.node.report_lock(cluster.unlock_key)
                if self._keys.seal_under(cluster.unlock_key):
                    member.log.use_key(self._keys.newest)
                    self._snapshots.use_key(self._keys.newest)
                self._log.info("data key sealed" if cluster.unlock_key else "data key unsealed")
            await self._driver.turned.wait()

    # -- this member's own place among the members

    async def _keep_record(self) -> None:
        """Join, and let the members know when address or certificate change."""
        await self._register()
        async for _ in self._runtime.node.changes():
            self._record = self._own_record(self._record.incarnation)
            await self._register()

    async def _register(self) -> None:
        if self._registered:
            return
        link = ManagerLink(self._runtime.bus, self._other_managers(), rng=self._runtime.rng)
        back_off = BackOff(first_s=0.05)
        try:
            while not self._registered:
                link.set_managers(self._other_managers())
                try:
                    await self._try_to_register(link)
                except InvalidArgument:
                    raise
                except (SwarmError, TimeoutError) as error:
                    self._log.info("not registered yet", reason=str(error))
                    if not isinstance(error, Unavailable):  # else the link knows whom to ask next, and when
                        await back_off.wait()
        finally:
            await link.close()

    async def _try_to_register(self, link: ManagerLink) -> None:
        if self._member.leads:
            await self._roster.join(self._record)
        else:
            await self._ask_to_join(link)
        async with asyncio.timeout(REGISTERED_S):
            while not self._registered:
                await self._driver.turned.wait()

    @property
    def _registered(self) -> bool:
        return self._member.log.membership.latest.members.get(self._member.me) == self._record

    async def _ask_to_join(self, link: ManagerLink) -> None:
        request = store.JoinRequest(
            raft_addr=self._record.raft_addr,
            remote_addr=self._record.remote_addr,
            certificate=self._record.certificate,
            incarnation=self._record.incarnation,
        )
        connection = await link.connection(timeout_s=store.JOIN.timeout_s)
        try:
            reply = await connection.call(store.JOIN, request)
        except SwarmError as error:
            await link.report(connection, error)
            raise
        link.succeeded()
        self._log.info("joined", members=len(reply.members))

    def _other_managers(self) -> list[ManagerPeer]:
        known = {peer.node_id: peer for peer in self._runtime.node.facts.managers}
        for record in self._member.log.membership.latest.members.values():
            known[record.node_id] = ManagerPeer(
                node_id=record.node_id, addr=record.remote_addr, certificate=record.certificate
            )
        known.pop(self._record.node_id, None)
        return list(known.values())
