"""Founding the cluster: once, by the ca of the first manager, which alone has the root's key on its disk.

Runs until the store holds the cluster, then removes the key file. Cut short anywhere, the next run of the process takes it up again.
"""

from __future__ import annotations

from pathlib import Path

from services.ca.config import CaSettings
from services.ca.core.issuance import Signed, plan_cluster
from services.ca.shell.keystore import Keystore
from services.ca.shell.ledger import Ledger
from services.kit.bus.identity import load_identity
from services.kit.errors import DeadlineExceeded, Unavailable
from services.kit.lifecycle.app import Runtime
from services.kit.model.states import Role
from services.kit.model.tokens import SECRET_BYTES
from services.kit.runtime.log import Log
from services.kit.store.client import TransactionConflict

RETRY_S = 1.0


class Founder:
    """Makes the Cluster and the first Node."""

    def __init__(self, settings: CaSettings, runtime: Runtime, ledger: Ledger, keystore: Keystore) -> None:
        self._settings = settings
        self._runtime = runtime
        self._ledger = ledger
        self._keystore = keystore
        self._log = Log("founder")

    async def run(self) -> None:
        """Return once the store has a cluster and the key file is gone."""
        while self._keystore.load().key:
            try:
                await self._found()
            except (Unavailable, DeadlineExceeded, TransactionConflict) as error:
                self._log.debug("not yet", cause=str(error))
                await self._ledger.status_change(at_most_s=RETRY_S)

    async def _found(self) -> None:
        view = await self._ledger.fresh_view()
        if view.cluster is None:
            facts = self._runtime.node.facts
            me = load_identity(Path(facts.certificates_dir))
            first = Signed(
                node_id=facts.node_id,
                role=Role.MANAGER,
                public_key=me.public_key,
                certificate=me.certificate,
                not_after=me.not_after,
                issuer=me.issuer,
            )
            ops = plan_cluster(
                cluster_id=facts.cluster_id,
                root=self._keystore.load(),
                first=first,
                availability=self._settings.availability,
                remote_addr=facts.remote_addr,
                worker_entropy=self._runtime.ids.secret("token", SECRET_BYTES),
                manager_entropy=self._runtime.ids.secret("token", SECRET_BYTES),
                unlock_key=facts.unlock_keys[0] if facts.unlock_keys else b"",
            )
            await self._ledger.commit(ops, timeout_s=self._settings.issue_timeout_s)
            self._log.info("cluster made", cluster=facts.cluster_id)
        self._keystore.forget_key()
