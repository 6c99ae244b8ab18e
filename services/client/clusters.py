"""The cluster, as the client sees it: there is one, called ``default``."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from services.client.changes import write_changed
from services.client.line import ControlLine
from services.kit.messages import control, identity
from services.kit.model.objects import Cluster
from services.kit.model.specs import ClusterSpec

DEFAULT = "default"


class Clusters:
    """``client.clusters``."""

    def __init__(self, line: ControlLine) -> None:
        self._line = line

    async def get(self, ref: str = DEFAULT, *, stale: bool = False) -> Cluster:
        """Return the cluster without its keys; the join tokens are in ``root_ca.join_tokens``. Raises NotFound.

        >>> token = (await client.clusters.get()).root_ca.join_tokens.worker  # doctest: +SKIP
        """
        return (await self._line.call(control.GET_CLUSTER, control.GetRequest(ref=ref, stale=stale))).cluster

    async def list(self, *, stale: bool = False) -> tuple[Cluster, ...]:
        """Return all clusters."""
        return (await self.get(stale=stale),)

    async def update(self, ref: str, change: Callable[[ClusterSpec], ClusterSpec]) -> Cluster:
        """Change the cluster's spec; ``change`` is called again when somebody else wrote in between.

        >>> from msgspec.structs import replace
        >>> await client.clusters.update("default", lambda spec: replace(spec, auto_lock_managers=True))  # doctest: +SKIP
        """

        async def read() -> Cluster:
            return await self.get(ref)

        async def send(cluster: Cluster, spec: ClusterSpec) -> Cluster:
            request = control.UpdateClusterRequest(version=cluster.meta.version, spec=spec)
            return (await self._line.call(control.UPDATE_CLUSTER, request)).cluster

        return await write_changed(read, lambda cluster: cluster.spec, change, send)

    async def put(
        self, version: int, spec: ClusterSpec, *, rotate_worker: bool = False, rotate_manager: bool = False
    ) -> Cluster:
        """Replace the settings that were read at this version and make new tokens; raises Conflict when somebody wrote in between."""
        request = control.UpdateClusterRequest(
            version=version, spec=spec, rotate_worker_token=rotate_worker, rotate_manager_token=rotate_manager
        )
        return (await self._line.call(control.UPDATE_CLUSTER, request)).cluster

    async def unlock_key(self) -> str:
        """Return the key that locked managers are unlocked with, empty when managers are not locked."""
        return (await self._line.call(identity.UNLOCK_KEY, identity.UnlockKeyRequest())).unlock_key

    async def rotate_unlock_key(self, ref: str = DEFAULT) -> Cluster:
        """Lock managers under a new key."""
        cluster = await self.get(ref)
        request = control.UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec, rotate_unlock_key=True)
        return (await self._line.call(control.UPDATE_CLUSTER, request)).cluster

    async def rotate_root(self, ref: str = DEFAULT, *, certificate: bytes = b"", key: bytes = b"") -> Cluster:
        """Begin to move to another root: the one that is given (PEM), else a fresh one. Every node renews its certificate meanwhile."""

        def change(spec: ClusterSpec) -> ClusterSpec:
            force = spec.ca.force_rotate if certificate else spec.ca.force_rotate + 1
            ca = replace(spec.ca, signing_ca_cert=certificate, signing_ca_key=key, force_rotate=force)
            return replace(spec, ca=ca)

        return await self.update(ref, change)

    async def abort_root_rotation(self, ref: str = DEFAULT) -> Cluster:
        """Stay with the root there is."""
        root = (await self.get(ref)).root_ca.ca_cert
        return await self.update(
            ref, lambda spec: replace(spec, ca=replace(spec.ca, signing_ca_cert=root, signing_ca_key=b""))
        )

    async def rotate_tokens(
        self,
        ref: str = DEFAULT,
        *,
        worker: bool = False,
        manager: bool = False,
        lives_s: float = 0.0,
        uses: int = 0,
    ) -> Cluster:
        """Make new join tokens; the old ones let nobody in from then on. Not repeated after an unknown outcome.

        The new ones may be made to end after ``lives_s`` seconds or after letting in ``uses`` nodes; 0 means no such limit.
        """
        cluster = await self.get(ref)
        request = control.UpdateClusterRequest(
            version=cluster.meta.version,
            spec=cluster.spec,
            rotate_worker_token=worker,
            rotate_manager_token=manager,
            token_lives_s=lives_s,
            token_uses=uses,
        )
        return (await self._line.call(control.UPDATE_CLUSTER, request)).cluster
