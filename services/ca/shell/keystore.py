"""The root's two files in ``certificates/``. The key lies there only from bootstrap until the store holds it.

The key is written before the certificate, so a certificate of our own making never lies there without the key that a restart needs.
"""

from __future__ import annotations

from pathlib import Path

from services.ca.core.issuance import Root
from services.kit.runtime.files import make_directory, sync_directory, write_atomic

ROOT_CERTIFICATE = "swarm-root-ca.crt"
ROOT_KEY = "swarm-root-ca.key"


class Keystore:
    """The root's files in one directory."""

    def __init__(self, directory: Path) -> None:
        self._certificate = directory / ROOT_CERTIFICATE
        self._key = directory / ROOT_KEY

    def load(self) -> Root:
        """Return what is there; a missing file reads as empty."""
        return Root(certificate=_read(self._certificate), key=_read(self._key))

    def save(self, root: Root) -> None:
        """Keep certificate and key until the store has them."""
        make_directory(self._key.parent, mode=0o755)
        write_atomic(self._key, root.key, mode=0o600)
        write_atomic(self._certificate, root.certificate, mode=0o644)

    def forget_key(self) -> None:
        """Remove the key file; idempotent."""
        if self._key.exists():
            self._key.unlink()
            sync_directory(self._key.parent)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
