"""This node's certificate towards other gateways: a key made here, certified by the ca, made anew well before it runs out.

Runs as a task of the app beside the real data plane. What must stay true: the private key never leaves the node, and its file is
the owner's alone; a ca that does not answer costs nothing but time while a certificate is still good.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.gateway.plane.messages import MeshIdentity
from services.kit.bus.session import ManagerLink
from services.kit.errors import SwarmError
from services.kit.messages import identity
from services.kit.runtime.clock import Clock
from services.kit.runtime.files import write_atomic
from services.kit.runtime.log import Log
from services.kit.store.line import BackOff

RENEW_AT = 0.5
"""Part of its life after which a certificate is replaced."""
LONGEST_WAIT_S = 24 * 3600.0


class MeshCertificate:
    """See the module."""

    def __init__(self, run_dir: Path, cluster_id: str, clock: Clock, become: Callable[[MeshIdentity], None]) -> None:
        """``become`` is given every new certificate."""
        self._run_dir = run_dir
        self._cluster_id = cluster_id
        self._clock = clock
        self._become = become
        self._again = asyncio.Event()
        self._log = Log("mesh")

    def renew(self) -> None:
        """Get another one soon: the roots or the role may have changed."""
        self._again.set()

    async def keep(self, link: ManagerLink) -> None:
        """Have a good certificate until cancelled."""
        back_off = BackOff()
        while True:
            self._again.clear()
            try:
                lasts_s = await self._obtain(link)
            except SwarmError as error:
                self._log.debug("no certificate for other gateways yet", cause=str(error))
                await back_off.wait()
                continue
            back_off.reset()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(LONGEST_WAIT_S, lasts_s * RENEW_AT)):
                    await self._again.wait()

    async def _obtain(self, link: ManagerLink) -> float:
        """Get a certificate, hand it on, and return how long it lasts."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        connection = await link.connection()
        issued = await connection.call(identity.ISSUE_TLS, identity.IssueTlsRequest(public_key=public))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        roots, certificate, key_file = (self._run_dir / name for name in ("mesh-roots.crt", "mesh.crt", "mesh.key"))
        write_atomic(roots, issued.roots, mode=0o600)
        write_atomic(certificate, issued.certificate, mode=0o600)
        write_atomic(key_file, private, mode=0o600)
        self._become(MeshIdentity(str(roots), str(certificate), str(key_file), self._cluster_id))
        self._log.info("certificate for other gateways", not_after=issued.not_after)
        return issued.not_after - self._clock.wall()
