"""Rotates the root on the leader: begins what the cluster's settings ask for, has the nodes renew, and ends it. See ``core/rotation``.

One task of the app. What must stay true: everything it knows is in the store, so the next leader goes on where this one stopped; a
transaction that others overtook is planned anew.
"""

from __future__ import annotations

import asyncio

from services.ca.config import CaSettings
from services.ca.core.issuance import Root
from services.ca.core.rotation import (
    Abort,
    Begin,
    SwapKey,
    Wish,
    nodes_behind,
    plan_abort,
    plan_batch,
    plan_begin,
    plan_end,
    plan_swap,
    wish_of,
)
from services.ca.shell.crypto import cross_sign, is_issued_by, key_of, make_root
from services.ca.shell.ledger import Ledger
from services.kit.errors import SwarmError
from services.kit.lifecycle.app import Runtime
from services.kit.model.objects import Cluster
from services.kit.model.tokens import SECRET_BYTES
from services.kit.runtime.log import Log
from services.kit.state.transaction import Op
from services.kit.state.view import View

TICK_S = 3.0
"""While a rotation is under way, a node that was asked to renew and has not confirmed is asked again after this time at the earliest."""
IDLE_S = 60.0


class RootRotator:
    """See the module."""

    def __init__(self, settings: CaSettings, runtime: Runtime, ledger: Ledger) -> None:
        self._settings = settings
        self._runtime = runtime
        self._ledger = ledger
        self._asked_at = 0.0
        self._log = Log("rotation")

    async def run(self) -> None:
        """Act on every change until cancelled."""
        news = self._ledger.news
        while True:
            news.clear()
            wait_s = IDLE_S
            try:
                view = self._ledger.led_view
                if view is not None and view.cluster is not None and await self._step(view, view.cluster):
                    wait_s = TICK_S
            except SwarmError as error:
                self._log.warning("root rotation does not go on", cause=str(error))
                wait_s = TICK_S
            try:
                async with asyncio.timeout(wait_s):
                    await news.wait()
            except TimeoutError:
                continue

    async def _step(self, view: View, cluster: Cluster) -> bool:
        """Do what comes next; True while a rotation is under way."""
        wish = wish_of(cluster)
        if wish is not None:
            await self._grant(cluster, wish)
            return True
        rotation = cluster.root_ca.rotation
        if rotation is None:
            return False
        issuer = key_of(rotation.ca_cert)
        if nodes_behind(view, issuer):
            await self._ask(view, issuer)
        elif all(is_issued_by(member.certificate, rotation.ca_cert) for member in self._ledger.members):
            secret = self._runtime.ids.secret
            await self._commit(plan_end(cluster, secret("token", SECRET_BYTES), secret("token", SECRET_BYTES)))
            self._log.info("root rotated", cluster=cluster.id)
        return True

    async def _ask(self, view: View, issuer: bytes) -> None:
        """Ask some more nodes to renew, not faster than they can."""
        now = self._runtime.clock.monotonic()
        ops = plan_batch(view, issuer)
        if not ops or (self._asked_at and now < self._asked_at + TICK_S):
            return
        self._asked_at = now
        await self._commit(ops)
        self._log.info("nodes asked to renew", nodes=len(ops), behind=len(nodes_behind(view, issuer)))

    async def _grant(self, cluster: Cluster, wish: Wish) -> None:
        match wish:
            case Begin(root=wanted):
                now = self._runtime.clock.wall()
                root = wanted or make_root(now)
                old = Root(certificate=cluster.root_ca.ca_cert, key=cluster.root_ca.ca_key)
                await self._commit(plan_begin(cluster, root, cross_sign(old, root, now)))
                self._asked_at = 0.0
                self._log.info("root rotation begun", own_root=wanted is not None)
            case SwapKey(key=key):
                await self._commit(plan_swap(cluster, key))
            case Abort():
                await self._commit(plan_abort(cluster))
                self._log.info("root rotation aborted")

    async def _commit(self, ops: tuple[Op, ...]) -> None:
        await self._ledger.commit(ops, timeout_s=self._settings.issue_timeout_s)
