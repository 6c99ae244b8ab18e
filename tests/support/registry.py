"""A registry of images on loopback, just enough for an engine to pull from: one image of one layer, behind a name and a password."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, PASSWORD = "ann", "open sesame"
REPOSITORY = "team/app"
LAYER_BYTES = 3_000_000
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


def credentials(password: str = PASSWORD) -> str:
    """Return the credentials in the form of ``ContainerSpec.registry_auth``."""
    text = json.dumps({"username": USER, "password": password})
    return base64.urlsafe_b64encode(text.encode()).decode()


class Registry:
    """A running registry. While ``gate`` is not set, its layer stops half way."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.refused = 0
        self.blobs: dict[str, bytes] = {}
        self.manifest = self._make_manifest()
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._answer(self, with_body=True)

            def do_HEAD(self) -> None:
                registry._answer(self, with_body=False)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it so
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="registry")

    @property
    def image(self) -> str:
        """The image's name."""
        return f"127.0.0.1:{self._server.server_address[1]}/{REPOSITORY}:1"

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _make_manifest(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            entry = tarfile.TarInfo("noise")
            entry.size = LAYER_BYTES
            tar.addfile(entry, io.BytesIO(random.Random(1).randbytes(LAYER_BYTES)))
        layer = gzip.compress(packed.getvalue(), 1)
        diff = f"sha256:{hashlib.sha256(packed.getvalue()).hexdigest()}"
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
        ).encode()
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "config": self._blob(config, "application/vnd.docker.container.image.v1+json"),
                "layers": [self._blob(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
            }
        ).encode()

    def _blob(self, data: bytes, media_type: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return {"mediaType": media_type, "size": len(data), "digest": digest}

    def _answer(self, request: BaseHTTPRequestHandler, *, with_body: bool) -> None:
        expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {expected}":
            self.refused += 1
            _send(
                request, 401, b"{}", "application/json", {"WWW-Authenticate": 'Basic realm="test"'}, with_body=with_body
            )
            return
        kind, _, name = request.path.rpartition("/")
        if kind.endswith("/manifests"):
            digest = f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"
            _send(request, 200, self.manifest, _MANIFEST_TYPE, {"Docker-Content-Digest": digest}, with_body=with_body)
        elif kind.endswith("/blobs") and name in self.blobs:
            self._send_blob(request, self.blobs[name])
        else:
            _send(request, 200 if request.path == "/v2/" else 404, b"{}", "application/json", {}, with_body=with_body)

    def _send_blob(self, request: BaseHTTPRequestHandler, data: bytes) -> None:
        half = len(data) // 2
        try:
            _send(request, 200, data[:half], "application/octet-stream", {}, with_body=True, size=len(data))
            request.wfile.flush()
            self.gate.wait()
            request.wfile.write(data[half:])
        except OSError:
            # The engine gave up.
            request.close_connection = True


def _send(
    request: BaseHTTPRequestHandler,
    code: int,
    body: bytes,
    media_type: str,
    headers: dict[str, str],
    *,
    with_body: bool,
    size: int | None = None,
) -> None:
    request.send_response(code)
    for name, value in {
        "Content-Type": media_type,
        "Content-Length": str(len(body) if size is None else size),
        "Docker-Distribution-Api-Version": "registry/2.0",
        **headers,
    }.items():
        request.send_header(name, value)
    request.end_headers()
    if with_body:
        request.wfile.write(body)


@contextmanager
def one_registry() -> Iterator[Registry]:
    """Run a registry."""
    registry = Registry()
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
