"""From gateway to gateway: two nodes' data planes, certificates of one cluster, and callers that have none."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from services.ca.core.issuance import Root
from services.ca.shell.crypto import Signer, make_root
from services.gateway.core.proxy_header import Address, parse
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.mesh import REFUSED, Preface, encode_preface
from services.gateway.plane.messages import MeshIdentity
from services.kit.messages.routes import Backend
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.specs import IngressConfig
from services.kit.model.states import ProxyVersion, Role
from services.kit.runtime.clock import SystemClock
from tests.support.plane_home import HOST, Plane, Visitor, backend, free_port, plane, route, serving, tasks, visit
from tests.support.running import eventually, run_async

pytestmark = pytest.mark.process

CLUSTER = "cluster-1"


def identity(directory: Path, root: Root, node: str, cluster: str = CLUSTER) -> MeshIdentity:
    """Return the files of a node's certificate under a root."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = Signer(root).sign_tls(
        public_key=key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
        node_id=NodeId(node),
        cluster_id=ClusterId(cluster),
        role=Role.WORKER,
        validity_s=3600.0,
        now=SystemClock().wall(),
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    directory.mkdir(exist_ok=True)
    paths = [directory / name for name in ("roots", "certificate", "key")]
    for path, content in zip(paths, (root.certificate, signed.certificate, private), strict=True):
        path.write_bytes(content)
    return MeshIdentity(str(paths[0]), str(paths[1]), str(paths[2]), cluster)


@dataclass(frozen=True, kw_only=True)
class TwoNodes:
    """A node that is asked, and one that runs the tasks."""

    near: Plane
    far: Plane
    root: Root

    def through(self, name: str, port: int) -> Backend:
        """Return a task of the far node, as the route table names it."""
        return Backend(
            task_id=backend(name, port).task_id,
            node_id=NodeId("n2"),
            addr=HOST,
            port=port,
            is_private=True,
            via=f"{HOST}:{self.far.keeper.mesh_port}",
        )

    async def show(self, port: int, *backends: Backend, ingress: IngressConfig | None = None) -> None:
        """Publish a port; only the near node answers on it, because both have the same address here."""
        for node in (self.far, self.near):
            await node.show(route(port, *backends, ingress=ingress, nodes=(NodeId("n1"),)))


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[TwoNodes]:
    """Run two data planes with certificates of one root."""
    root = make_root(SystemClock().wall())
    (directory / "1").mkdir()
    (directory / "2").mkdir()
    async with plane(directory / "1", node="n1") as near, plane(directory / "2", node="n2") as far:
        near.keeper.become(identity(directory / "id1", root, "n1"))
        far.keeper.become(identity(directory / "id2", root, "n2"))
        yield TwoNodes(near=near, far=far, root=root)


def test_a_task_of_another_node_is_reached_through_its_gateway(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, tasks("a") as (task,):
            await nodes.show(port, nodes.through("a", task.port))
            assert [await visit(port) for _ in range(5)] == ["a"] * 5
            (counts,) = await nodes.far.keeper.counts()
            assert counts.tasks["a"]["connections"] == 5, "the far gateway dialled it"

    run_async(scenario())


def test_the_clients_address_travels_along(tmp_path: Path) -> None:
    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        while (header := parse(data)) is None:
            data += await reader.readexactly(1)
        writer.write(f"{header.source} {header.destination}\n".encode())
        await writer.drain()
        await reader.read()

    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, serving(tell) as task_port:
            ingress = IngressConfig(proxy_to=ProxyVersion.V2)
            await nodes.show(port, nodes.through("a", task_port), ingress=ingress)
            visitor = await Visitor.come(port)
            own = Address(*visitor.writer.get_extra_info("sockname"))
            assert await visitor.reader.readline() == f"{own} {Address(HOST, port)}\n".encode()
            await visitor.leave()

    run_async(scenario())


@pytest.mark.parametrize("size", [1, 15_999, 16_001, 5_000_003])
def test_bulk_arrives_whole_in_both_directions_at_once(tmp_path: Path, size: int) -> None:
    content = random.Random(size).randbytes(size)
    digest = hashlib.sha256(content).hexdigest()

    async def scenario() -> None:
        port = free_port()
        seen: list[str] = []

        async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sending = asyncio.gather(_send_all(writer, content))
            seen.append(await _digest(reader))
            await sending

        async with two_nodes(tmp_path) as nodes, serving(exchange) as task_port:
            await nodes.show(port, nodes.through("a", task_port))
            visitor = await Visitor.come(port)
            sending = asyncio.gather(_send_all(visitor.writer, content))
            assert await _digest(visitor.reader) == digest
            await sending
            await eventually(lambda: seen == [digest])
            await visitor.leave()

    run_async(scenario())


def test_half_a_close_leaves_the_other_half_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, tasks("a") as (task,):
            await nodes.show(port, nodes.through("a", task.port))
            visitor = await Visitor.come(port)
            visitor.writer.write(b"one\ntwo\n")
            visitor.writer.write_eof()
            assert await visitor.reader.read() == b"a:one\na:two\nbye\n"
            await visitor.leave()

    run_async(scenario())


def test_a_reset_in_the_middle_is_passed_on_as_a_reset(tmp_path: Path) -> None:
    async def reset_midway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"half of the ans")
        await writer.drain()
        await reader.readline()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, serving(reset_midway) as task_port:
            await nodes.show(port, nodes.through("a", task_port))
            visitor = await Visitor.come(port)
            visitor.writer.write(b"question\n")
            assert await visitor.reader.readexactly(15) == b"half of the ans"
            visitor.writer.write(b"now\n")
            with pytest.raises(ConnectionResetError):
                await visitor.reader.read()
            await visitor.leave()

    run_async(scenario())


def test_a_dead_task_behind_another_gateway_costs_no_client_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, tasks("dead", "well") as (dead, well):
            await dead.close()
            await nodes.show(port, nodes.through("dead", dead.port), nodes.through("well", well.port))
            assert {await visit(port) for _ in range(20)} == {"well"}
            await dead.open()

    run_async(scenario())


def test_a_gateway_of_another_cluster_or_root_is_not_talked_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, tasks("far", "near") as (far, near):
            await nodes.show(port, nodes.through("far", far.port), near.backend())
            wrong = [
                identity(tmp_path / "other", nodes.root, "n2", cluster="cluster-2"),
                identity(tmp_path / "forged", make_root(SystemClock().wall()), "n2"),
                identity(tmp_path / "posing", nodes.root, "n3"),
            ]
            for number, false_identity in enumerate(wrong):
                nodes.near.keeper.become(identity(tmp_path / f"again{number}", nodes.root, "n1"))
                await nodes.show(port, nodes.through("far", far.port))
                if number == 0:
                    nodes.near.keeper.become(false_identity)
                else:
                    nodes.far.keeper.become(false_identity)
                await nodes.show(port, nodes.through("far", far.port))
                visitor = await Visitor.come(port)
                assert await visitor.reader.read() == b"", f"{false_identity} was believed"
                await visitor.leave()
                nodes.far.keeper.become(identity(tmp_path / "well", nodes.root, "n2"))
            nodes.near.keeper.become(identity(tmp_path / "well1", nodes.root, "n1"))
            await nodes.show(port, nodes.through("far2", far.port))
            assert await visit(port) == "far"

    run_async(scenario())


def test_a_private_task_is_never_dialled_in_plain(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, tasks("a") as (task,):
            nobody_knows = msgspec.structs.replace(nodes.through("a", task.port), via="")
            await nodes.show(port, nobody_knows)
            visitor = await Visitor.come(port)
            assert await visitor.reader.read() == b""
            await visitor.leave()
            assert not task.greeted

    run_async(scenario())


def test_a_caller_without_a_certificate_gets_no_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with two_nodes(tmp_path) as nodes:
            loop = asyncio.get_running_loop()
            address = (HOST, nodes.far.keeper.mesh_port)
            with socket.create_connection(address) as plain:
                plain.setblocking(False)
                await loop.sock_sendall(plain, b"GET / HTTP/1.1\r\n\r\n" * 20)
                answer = b"begin"
                try:
                    while answer:
                        answer = await loop.sock_recv(plain, 1000)
                        assert b"HTTP" not in answer
                except ConnectionResetError:
                    answer = b""
                assert answer == b""
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            reader, writer = await asyncio.open_connection(*address, ssl=context)
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                await reader.read()
            writer.transport.abort()

    run_async(scenario())


def test_a_gateway_reaches_only_tasks_that_the_table_names_for_the_node(tmp_path: Path) -> None:
    async def scenario() -> None:
        port = free_port()
        async with two_nodes(tmp_path) as nodes, tasks("a", "elsewhere") as (task, elsewhere):
            await nodes.show(port, nodes.through("a", task.port), backend("elsewhere", elsewhere.port, node="n3"))
            for key, name in ((f"{port}/tcp", "elsewhere"), (f"{port}/tcp", "unknown"), ("1/tcp", "a"), ("mesh", "a")):
                answer = await asyncio.to_thread(call_gateway, tmp_path / "id1", nodes.far.keeper.mesh_port, key, name)
                assert answer == REFUSED

    run_async(scenario())


def call_gateway(files: Path, port: int, key: str, task: str) -> bytes:
    """Ask a gateway for a task as another gateway does, and return the first byte of the answer."""
    context = ssl.create_default_context(cafile=str(files / "roots"))
    context.load_cert_chain(files / "certificate", files / "key")
    with socket.create_connection((HOST, port), timeout=5.0) as sock:
        tls = FramedTls(context.wrap_socket(sock, server_hostname="n2"))
        tls.send(encode_preface(Preface(key, task, Address("192.0.2.1", 1), Address("192.0.2.2", 2))))
        answer = bytearray(1)
        tls.recv_into(answer)
        tls.close()
    return bytes(answer)


async def _send_all(writer: asyncio.StreamWriter, content: bytes) -> None:
    for start in range(0, len(content), 1 << 18):
        writer.write(content[start : start + (1 << 18)])
        await writer.drain()
    writer.write_eof()


async def _digest(reader: asyncio.StreamReader) -> str:
    digest = hashlib.sha256()
    while block := await reader.read(1 << 18):
        digest.update(block)
    return digest.hexdigest()
