"""Keeps the node's certificate good: renews it when ``core/renewal`` says so, and takes the roots that the swarm trusts.

Owned by the node, which adopts what comes out of it. What must stay true: the files on disk and what the processes use are never older
than what the swarm was told; a swarm that refuses this node for good ends it with the swarm's own words.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from services.kit.bus.identity import Identity
from services.kit.errors import (
    DataLoss,
    Distrusted,
    NotFound,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
    Unimplemented,
)
from services.kit.messages.supervise import NodeReport
from services.kit.model.states import Role
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.supervisor.core.renewal import Held, Renewal
from services.supervisor.shell.board import Board
from services.supervisor.shell.enrolment import Enrolment

CONFIRM_FIRST_S, CONFIRM_MAX_S = 0.2, 30.0
"""Pauses between attempts to tell the swarm which certificate is in use."""
LOOK_AGAIN_S = 600.0
"""The wall clock may be set; the time to the next renewal is computed anew at least this often."""


class CertificateKeeper:
    """See the module."""

    def __init__(
        self,
        board: Board,
        enrolment: Enrolment,
        *,
        clock: Clock,
        rng: random.Random,
        adopt: Callable[[Identity], None],
    ) -> None:
        self._board = board
        self._enrolment = enrolment
        self._clock = clock
        self._adopt = adopt
        self._renewal = Renewal(rng)
        self._distrusted = asyncio.Event()
        self._log = Log("certificate")

    def hold(self, identity: Identity) -> None:
        """Take the identity in use."""
        role = self._board.role or Role.WORKER
        held = Held(role=role, not_before=identity.not_before, not_after=identity.not_after)
        self._renewal.hold(held, self._clock.wall())

    def hear(self, report: NodeReport) -> None:
        """Take what the swarm says of this node."""
        identity = self._board.identity
        if identity is not None and report.root_bundle and report.root_bundle != identity.roots:
            self._trust(identity, report.root_bundle)
        if report.distrusts:
            self._distrusted.set()
        if report.role is not None:
            self._renewal.want(report.role, rotate=report.rotate_certificate, now=self._clock.wall())
            self._board.changes.announce()

    async def confirm(self) -> None:
        """Tell the swarm of each certificate that is in use, for as long as the node lives."""
        told: Identity | None = None
        pause_s = CONFIRM_FIRST_S
        while True:
            identity = self._board.identity
            if identity is None or (told is not None and identity.certificate == told.certificate):
                await self._wait(LOOK_AGAIN_S)
                continue
            try:
                await self._enrolment.installed(identity, self._board.facts.managers)
            except Unimplemented:
                told = identity
            except SwarmError as error:
                self._log.debug("certificate in use not confirmed yet", cause=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(CONFIRM_MAX_S, 2 * pause_s)
            else:
                told, pause_s = identity, CONFIRM_FIRST_S

    async def mend_trust(self) -> None:
        """Take the swarm's roots of now whenever its managers are not trusted: they may have changed while this node was away."""
        while True:
            await self._distrusted.wait()
            self._distrusted.clear()
            identity = self._board.identity
            if identity is not None:
                roots = await self._enrolment.roots_vouched_for(identity, self._board.facts.managers)
                if roots and identity is self._board.identity:
                    self._trust(identity, roots)

    async def run(self) -> None:
        """Renew for as long as the node lives; raises Unauthenticated when the swarm does not want it any more."""
        while True:
            due_in_s = self._renewal.due_in(self._clock.wall())
            if due_in_s != 0:
                await self._wait(LOOK_AGAIN_S if due_in_s is None else min(due_in_s, LOOK_AGAIN_S))
                continue
            await self._renew()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._board.changes.wait()
        except TimeoutError:
            return

    async def _renew(self) -> None:
        facts, identity = self._board.facts, self._board.identity
        assert identity is not None, "only a node that is in a swarm renews"
        expired = self._renewal.is_expired(self._clock.wall())
        try:
            fresh = await self._enrolment.renew(
                identity, facts.managers, remote_addr=facts.remote_addr, expired=expired
            )
        except SwarmError as error:
            if _is_final(error, expired=expired):
                raise Unauthenticated(f"the swarm gives this node no certificate any more: {error}") from error
            if isinstance(error, Distrusted):
                self._distrusted.set()
            self._renewal.failed(self._clock.wall())
            self._log.warning("certificate was not renewed", cause=str(error), expired=expired)
        else:
            self._log.info("certificate renewed", role=fresh.role, serves_until=fresh.not_after)
            self._adopt(fresh)

    def _trust(self, identity: Identity, roots: bytes) -> None:
        """Take a new root bundle, unless this node's own certificate would not hang on it."""
        try:
            fresh = Identity(identity.key, identity.certificate, roots)
        except DataLoss as error:
            self._log.warning("new roots are not taken", cause=str(error))
            return
        self._enrolment.keep_roots(roots)
        self._log.info("roots changed")
        self._adopt(fresh)


def _is_final(error: SwarmError, *, expired: bool) -> bool:
    """Tell whether asking again is of no use. A node that shows only its key is refused when the key is."""
    if isinstance(error, Distrusted):
        return False
    return isinstance(error, (NotFound, PermissionDenied)) or (expired and isinstance(error, Unauthenticated))
