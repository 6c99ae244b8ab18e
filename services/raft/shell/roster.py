"""Changing the members, on the leader: join after a dial-back and catch-up, leave with the quorum guard, hand leadership over.

One change at a time, in order of arrival. A joiner gets the log without a vote until it has caught up; only then is it counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.kit.errors import Details, FailedPrecondition, InvalidArgument, Problem, SwarmError, Unavailable
from services.kit.messages import store
from services.kit.model.ids import NodeId
from services.raft.core.members import ChangeKind, MemberRecord, MembershipChange
from services.raft.shell.driver import Driver
from services.raft.shell.links import Links

CAUGHT_UP_ENTRIES = 64
"""A joiner this close to the leader is counted, if it knows the members; the rest arrives while the change is committed."""


class Roster:
    """The leader's acts on the list of members."""

    def __init__(self, driver: Driver, links: Links, *, join_timeout_s: float, follow: Callable[[], None]) -> None:
        self._driver = driver
        self._member = driver.member
        self._links = links
        self._join_timeout_s = join_timeout_s
        self._follow = follow
        """Has the links follow members and observers."""
        self._one_at_a_time = asyncio.Lock()

    async def join(self, record: MemberRecord) -> None:
        """Make a node a member, or take over its new address or certificate; asked twice it does nothing."""
        _check(record)
        async with self._one_at_a_time:
            self._must_lead()
            known = self._member.log.membership.latest.members.get(record.node_id)
            if known is not None and known.incarnation == record.incarnation:
                if known != record:
                    await self._change(ChangeKind.UPDATE, record)
                return
            gone = self._member.log.membership.latest.removed.get(record.node_id)
            if gone is not None and gone.incarnation == record.incarnation:
                raise FailedPrecondition("this manager was removed: without its raft directory it may join anew")
            await self._links.probe(record)
            if known is not None:
                await self._change(ChangeKind.REMOVE, known)
            await self._admit(record)

    async def leave(self, node_id: NodeId) -> None:
        """Remove a member; a leader hands over first and names the new leader, which can be asked to remove it."""
        async with self._one_at_a_time:
            self._must_lead()
            known = self._member.log.membership.latest.members.get(node_id)
            if known is None:
                return
            if node_id == self._member.me:
                if len(self._member.member_ids) == 1:
                    raise FailedPrecondition("the last manager cannot be removed")
                await self.transfer(None)
                raise self._member.not_leader()
            await self._change(ChangeKind.REMOVE, known)

    async def transfer(self, to: NodeId | None) -> None:
        """Hand leadership over and wait until somebody else leads."""
        if to is not None and to not in self._member.member_ids:
            raise FailedPrecondition(f"{to} is no manager of this cluster")
        if to == self._member.me:
            self._must_lead()
            return
        target = self._member.proposing.hand_over(to)
        self._driver.wake()
        try:
            async with asyncio.timeout(store.TRANSFER.timeout_s / 2):
                while self._member.leads or self._member.leader is None:
                    await self._driver.turned.wait()
        except TimeoutError:
            raise Unavailable(f"{target} did not take over", Details(retry_ms=500)) from None

    def members(self) -> tuple[MemberRecord, ...]:
        """Return the members as they are now."""
        return tuple(record for _, record in sorted(self._member.log.membership.latest.members.items()))

    async def _admit(self, record: MemberRecord) -> None:
        self._member.observe(record)
        self._follow()
        try:
            async with asyncio.timeout(self._join_timeout_s):
                while not self._may_count(record.node_id):
                    await self._driver.turned.wait()
                    self._must_lead()
            await self._change(ChangeKind.ADD, record)
        except TimeoutError:
            behind = self._member.lag(record.node_id)
            raise Unavailable(
                f"the new manager is still {behind} entries behind: it may ask again", Details(retry_ms=1000)
            ) from None
        finally:
            self._member.drop_observer(record.node_id)
            self._follow()

    def _may_count(self, joiner: NodeId) -> bool:
        """Tell whether a joiner can do what a member must: follow soon, and answer every other member that asks for its vote."""
        member = self._member
        knows_members = member.consensus.match_index(joiner) >= member.log.membership.last_index
        return member.linked(joiner) and knows_members and member.lag(joiner) <= CAUGHT_UP_ENTRIES

    async def _change(self, kind: ChangeKind, record: MemberRecord) -> None:
        """Commit one change; waits for the change before it, and for the leader to be ready."""
        change = MembershipChange(kind=kind, member=record)
        while True:
            outcome: asyncio.Future[SwarmError | None] = asyncio.get_running_loop().create_future()
            self._member.proposing.change_members(change, _setter(outcome))
            self._driver.wake()
            error = await outcome
            if error is None:
                return
            if not error.details.retry_ms:
                raise error
            await self._driver.turned.wait()

    def _must_lead(self) -> None:
        if not self._member.leads:
            raise self._member.not_leader()


def _setter(outcome: asyncio.Future[SwarmError | None]) -> Callable[[SwarmError | None], None]:
    def done(error: SwarmError | None) -> None:
        if not outcome.done():
            outcome.set_result(error)

    return done


def _check(record: MemberRecord) -> None:
    problems = [
        Problem(path=path, reason="is missing")
        for path, value in (
            ("caller", record.node_id),
            ("raft_addr", record.raft_addr),
            ("certificate", record.certificate),
            ("incarnation", record.incarnation),
        )
        if not value
    ]
    if problems:
        raise InvalidArgument.of(tuple(problems))
