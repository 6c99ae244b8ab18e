"""Getting and keeping the node's identity: loaded, made by our own ca, or asked of a cluster's manager with a join token.

Used by the node. Nothing is written before it is known to be good: a join that fails leaves the certificates directory as it was.
"""

from __future__ import annotations

import asyncio
import math
import random
from pathlib import Path
from typing import TypeVar

from services.kit.bus.api import LocalAddress, RemoteAddress
from services.kit.bus.door import knock
from services.kit.bus.identity import (
    CERTIFICATE_FILE,
    KEY_FILE,
    ROOTS_FILE,
    Identity,
    NodeKey,
    load_identity,
    new_key,
    save_node,
    save_roots,
)
from services.kit.bus.ports import node_ports, parse_address
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import DataLoss, DeadlineExceeded, InvalidArgument, SwarmError, Unauthenticated, Unavailable
from services.kit.messages import identity as messages
from services.kit.messages.identity import DoorReply, Issued
from services.kit.messages.method import Call
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Availability
from services.kit.model.tokens import parse_token, root_digest
from services.kit.model.value import Value
from services.kit.runtime.files import write_atomic
from services.kit.runtime.ids import IdSource
from services.kit.runtime.log import Log
from services.supervisor.core.identity import Found

ATTEMPTS_MAX = 8
BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 3.0
"""About ten seconds of attempts, as SwarmKit's joiners make."""
_WHY = "it is another cluster, its root was rotated, or somebody is in the middle"
ROOT_KEY_FILE = "swarm-root-ca.key"
FORMER_ROOTS_FILE = "swarm-former-roots.txt"
FORMER_ROOTS_MAX = 100
"""Digests of former roots that are remembered, the newest ones."""

RequestT = TypeVar("RequestT", bound=Value)


class Enrolment:
    """The identity of one node, and how it was come by."""

    def __init__(self, directory: Path, bus: ZmqBus, *, ids: IdSource, rng: random.Random) -> None:
        self._directory = directory
        self._bus = bus
        self._ids = ids
        self._rng = rng
        self._log = Log("enrolment")

    def found(self, *, has_store: bool) -> Found:
        """Look at the files; a certificate whose swap was cut short counts as there."""
        roots = self._read(ROOTS_FILE)
        key = self._has(KEY_FILE)
        return Found(
            root_certificate=bool(roots),
            root_key=self._has(ROOT_KEY_FILE),
            node_certificate=self._has(CERTIFICATE_FILE) or (key and self._has(f".{CERTIFICATE_FILE}")),
            node_key=key,
            store=has_store,
            root_digest=root_digest(roots) if roots else "",
            former_digests=frozenset(self._read(FORMER_ROOTS_FILE).decode(errors="replace").split()),
        )

    def load(self) -> Identity:
        """Return the identity on disk; raises DataLoss when it is damaged."""
        return load_identity(self._directory)

    async def bootstrap(self, ca_socket: str) -> Identity:
        """Have our own ca make a cluster and certify this node as its first manager."""
        key = new_key()
        connection = await self._bus.dial(LocalAddress(path=ca_socket))
        try:
            issued = await connection.call(
                messages.BOOTSTRAP,
                messages.Bootstrap(
                    public_key=key.public,
                    node_id=NodeId(self._ids.new("node")),
                    cluster_id=ClusterId(self._ids.new("cluster")),
                ),
            )
        finally:
            await connection.close()
        return self._keep(key, issued, issued.roots)

    async def join(
        self, *, token: str, addresses: tuple[str, ...], availability: Availability, remote_addr: str
    ) -> tuple[Identity, tuple[ManagerPeer, ...]]:
        """Join the cluster behind these addresses; returns the identity and the managers there are.

        Raises Unauthenticated when the root does not match the token, InvalidArgument when the token is not (any more) valid,
        Unavailable when nobody answers for a while.
        """
        parsed = parse_token(token)
        key = new_key()
        request = messages.IssueRequest(
            token=str(parsed), availability=availability, request_id=self._ids.new("request"), remote_addr=remote_addr
        )
        delay_s = BACK_OFF_FIRST_S
        problem: SwarmError = Unavailable("nobody was asked")
        for attempt in range(ATTEMPTS_MAX):
            for address in addresses:
                try:
                    door = await self._knock(address)
                    if root_digest(door.roots) != parsed.digest:
                        raise Unauthenticated(
                            f"the root certificate at {address} is not the one of the join token: {_WHY}"
                        )
                    issued = await self._ask_to_join(door, key, request)
                except (Unavailable, DeadlineExceeded) as error:
                    problem = error
                    self._log.info("manager does not answer", addr=address, attempt=attempt + 1, cause=str(error))
                else:
                    return self._keep(key, issued, door.roots), door.managers
            await asyncio.sleep(delay_s * (0.5 + self._rng.random() / 2))
            delay_s = min(delay_s * 2, BACK_OFF_MAX_S)
        raise Unavailable(f"no manager answers at {', '.join(addresses)}: {problem}")

    async def renew(
        self, current: Identity, managers: tuple[ManagerPeer, ...], *, remote_addr: str, expired: bool
    ) -> Identity:
        """Ask any manager for a fresh certificate for the same key; its role is what the swarm observes.

        With an ``expired`` certificate the key alone has to do.
        """
        problem: SwarmError | None = None
        refusal: SwarmError | None = None
        for peer in managers:
            try:
                if expired:
                    request = messages.ReturnRequest(remote_addr=remote_addr)
                    issued = await self._ask(peer, messages.RETURN, request, returning=True)
                else:
                    issued = await self._ask(peer, messages.RENEW, messages.RenewRequest(remote_addr=remote_addr))
            except (Unavailable, DeadlineExceeded) as error:
                problem = error
            except Unauthenticated as error:
                refusal = error
            else:
                return self._keep(current.key, issued, _roots_for(current.key, self._read(ROOTS_FILE), issued))
        raise problem or refusal or Unavailable("no manager is known")

    async def installed(self, identity: Identity, managers: tuple[ManagerPeer, ...]) -> None:
        """Tell the swarm that this certificate is in use; raises what the last manager that was asked answered."""
        problem: SwarmError = Unavailable("no manager is known")
        for peer in managers:
            host, port = parse_address(peer.addr)
            try:
                connection = await self._bus.dial(RemoteAddress(host=host, port=port, certificate=peer.certificate))
                try:
                    await connection.call(messages.INSTALLED, messages.InstalledRequest(issuer=identity.issuer))
                finally:
                    await connection.close()
            except SwarmError as error:
                problem = error
            else:
                return
        raise problem

    async def roots_vouched_for(self, identity: Identity, managers: tuple[ManagerPeer, ...]) -> bytes:
        """Ask the join doors of managers for the roots of now; returns other ones than ours that vouch for our own certificate.

        A door may be anybody's, so what it shows counts only when our certificate hangs on it: that certificate came from the swarm.
        """
        for peer in managers:
            try:
                roots = (await self._knock(peer.addr)).roots
                if roots != identity.roots:
                    return Identity(identity.key, identity.certificate, roots).roots
            except SwarmError as error:
                self._log.info("roots of a manager not taken", addr=peer.addr, cause=str(error))
        return b""

    async def _knock(self, address: str) -> DoorReply:
        door = node_ports(address).door
        try:
            return await knock(self._bus, door)
        except InvalidArgument:
            raise Unavailable(f"what listens on {door} is not a manager's join door") from None

    async def _ask_to_join(self, door: DoorReply, key: NodeKey, request: messages.IssueRequest) -> Issued:
        """Ask the managers behind the door in turn; what one of them refuses is refused."""
        self._bus.set_identity(Identity.joining(door.roots, key))
        problem: SwarmError = Unavailable("the join door names no manager")
        for peer in door.managers:
            try:
                return await self._ask(peer, messages.ISSUE, request)
            except (Unavailable, DeadlineExceeded) as error:
                problem = error
        raise problem

    async def _ask(
        self, peer: ManagerPeer, method: Call[RequestT, Issued], request: RequestT, *, returning: bool = False
    ) -> Issued:
        """Ask a manager. One that returns may find managers whose certificates ran out as well: it knows them by their keys."""
        host, port = parse_address(peer.addr)
        grace_s = math.inf if returning else 0.0
        address = RemoteAddress(
            host=host, port=port, certificate=peer.certificate, incognito=returning, grace_s=grace_s
        )
        connection = await self._bus.dial(address)
        try:
            return await connection.call(method, request)
        finally:
            await connection.close()

    def _keep(self, key: NodeKey, issued: Issued, roots: bytes) -> Identity:
        """Check the answer before anything is written."""
        identity = Identity(key, issued.certificate, roots)
        self.keep_roots(roots)
        save_node(self._directory, key, issued.certificate)
        return identity

    def keep_roots(self, roots: bytes) -> None:
        """Trust these roots from now on; the digest of those before is remembered, because an old join token names them."""
        before = self._read(ROOTS_FILE)
        if before and before != roots:
            digests = [*self._read(FORMER_ROOTS_FILE).decode(errors="replace").split(), root_digest(before)]
            text = "".join(f"{digest}\n" for digest in digests[-FORMER_ROOTS_MAX:])
            write_atomic(self._directory / FORMER_ROOTS_FILE, text.encode(), mode=0o644)
        save_roots(self._directory, roots)

    def _has(self, name: str) -> bool:
        return (self._directory / name).exists()

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        return path.read_bytes() if path.exists() else b""


def _roots_for(key: NodeKey, held: bytes, issued: Issued) -> bytes:
    """Return the roots that go with a fresh certificate: those we hold now, unless they were changed while this node could not hear of it."""
    try:
        return Identity(key, issued.certificate, held).roots
    except DataLoss:
        return issued.roots
