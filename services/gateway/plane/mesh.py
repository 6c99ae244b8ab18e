"""From gateway to gateway: connections to tasks of other nodes travel over mutually authenticated TLS, and are dialled on the task's node.

Owned by the carrier. The first frame of a connection says for which port and task it is and who the client is; the answer is one frame,
taken or not. What must stay true: both sides prove with certificates of this cluster's root which node they are; only tasks that the
route table names for this node are dialled; a connection that does not get through its first words in time is closed.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple

from services.gateway.core.balance import Target
from services.gateway.core.proxy_header import Address
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.loop import BOTH_ON_EDGE, READ, Timer
from services.gateway.plane.messages import MeshIdentity
from services.gateway.plane.published import ACCEPTS_PER_TURN, OUR_OWN_FAULT, PAUSE_S, Published

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier

MESH = "mesh"
"""Key under which the mesh's listeners go."""
ARRIVAL_TIMEOUT_S = 3.0
ARRIVALS_MAX = 1000
"""Connections that have not said what they want; more wait in the kernel's queue."""
PREFACE_BYTES_MAX = 1024
TAKEN = b"+"
REFUSED = b"-"
ROLES = frozenset({"swarm-manager", "swarm-worker"})


class Preface(NamedTuple):
    """The first words of a connection."""

    key: str
    task_id: str
    source: Address
    destination: Address


class Mesh:
    """This node's identity towards other gateways."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._identity: MeshIdentity | None = None
        self._client: ssl.SSLContext | None = None
        self._server: ssl.SSLContext | None = None
        self._sessions: dict[str, ssl.SSLSession] = {}
        """By address: what makes the next handshake with it short."""

    def become(self, identity: MeshIdentity) -> None:
        """Use these certificates from now on; raises OSError when they are no good."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for context in (client, server):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(identity.roots)
            context.load_cert_chain(identity.certificate, identity.key)
        self._identity, self._client, self._server = identity, client, server
        self._sessions.clear()

    def call(self, sock: socket.socket, target: Target) -> FramedTls:
        """Begin TLS towards the gateway of a task's node; raises OSError when this node has no identity yet."""
        if self._client is None:
            raise OSError(errno.ENOTCONN, "this node has no certificate for other gateways yet")
        session = self._sessions.get(target.via)
        return FramedTls(
            self._client.wrap_socket(
                sock, server_hostname=target.node_id, do_handshake_on_connect=False, session=session
            )
        )

    def answer(self, sock: socket.socket) -> FramedTls:
        """Begin TLS with a gateway that has called; raises OSError when this node has no identity yet."""
        if self._server is None:
            raise OSError(errno.ENOTCONN, "this node has no certificate for other gateways yet")
        return FramedTls(self._server.wrap_socket(sock, server_side=True, do_handshake_on_connect=False))

    def remember(self, target: Target, tls: FramedTls) -> None:
        """Keep what makes the next handshake short."""
        session = tls.session_under(self._client)
        if session is not None:
            self._sessions[target.via] = session

    def is_of_this_cluster(self, names: dict[str, str]) -> bool:
        """Tell whether a proven certificate is one of a node of this cluster."""
        identity = self._identity
        return (
            identity is not None
            and names.get("organizationName") == identity.cluster_id
            and names.get("organizationalUnitName") in ROLES
        )


def encode_preface(preface: Preface) -> bytes:
    """Return the first frame's content."""
    return json.dumps(preface, separators=(",", ":")).encode()


def decode_preface(data: bytes) -> Preface:
    """Return what a first frame says; raises ValueError."""
    try:
        key, task_id, source, destination = json.loads(data)
        (host, port), (to_host, to_port) = source, destination
    except (TypeError, RecursionError) as error:
        raise ValueError("not the first words of a gateway") from error
    words = (key, task_id, host, to_host)
    if not all(isinstance(word, str) for word in words) or not all(isinstance(n, int) for n in (port, to_port)):
        raise ValueError("not the first words of a gateway")
    return Preface(key, task_id, Address(host, port), Address(to_host, to_port))


class MeshListener:
    """The socket at which other gateways call."""

    def __init__(self, carrier: Carrier, published: Published, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._carrier = carrier
        self._sock = sock
        self._arrivals: set[Arrival] = set()
        self._is_watched = False
        self._is_closed = False
        self.published = published
        published.listeners.append(self)
        self.look_again()

    @property
    def sock(self) -> socket.socket:
        """The socket, for handing out copies."""
        return self._sock

    def look_again(self) -> None:
        """Accept exactly while there is room; idempotent."""
        wanted = not self._is_closed and not self._carrier.is_full and len(self._arrivals) < ARRIVALS_MAX
        if wanted and not self._is_watched:
            self._carrier.loop.watch(self._sock.fileno(), self.on_event, READ)
        elif self._is_watched and not wanted:
            self._carrier.loop.unwatch(self._sock.fileno())
        self._is_watched = wanted

    def on_event(self, events: int) -> None:
        """Accept what waits, a bounded number at a time."""
        del events
        for _ in range(ACCEPTS_PER_TURN):
            if not self._is_watched or not self._accept():
                return

    def gone(self, arrival: Arrival) -> None:
        """It said what it wants, or was closed."""
        self._arrivals.discard(arrival)
        self.look_again()

    def end(self) -> None:
        """Listen no more, whoever else has a copy of the socket."""
        self._sock.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close this copy of the socket."""
        self._is_closed = True
        self.published.listeners.remove(self)
        self.look_again()
        self._sock.close()
        for arrival in list(self._arrivals):
            arrival.close()

    def _accept(self) -> bool:
        try:
            client, _ = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in OUR_OWN_FAULT:
                self._carrier.pause(PAUSE_S)
                return False
            return True
        client.setblocking(False)
        try:
            tls = self._carrier.mesh.answer(client)
        except OSError:
            client.close()
            return True
        self._arrivals.add(Arrival(self._carrier, self, tls))
        return True


class Arrival:
    """A gateway's connection that has not said what it wants."""

    def __init__(self, carrier: Carrier, listener: MeshListener, tls: FramedTls) -> None:
        self._carrier = carrier
        self._listener = listener
        self._tls = tls
        self._shook_hands = False
        self._timer: Timer = carrier.loop.later(ARRIVAL_TIMEOUT_S, self.close)
        self._buffer = bytearray(PREFACE_BYTES_MAX)
        carrier.loop.watch(tls.fileno(), self.on_event, BOTH_ON_EDGE)

    def on_event(self, events: int) -> None:
        """Go on with the handshake, then read the first frame."""
        del events
        try:
            if not self._shook_hands:
                self._tls.handshake()
                self._shook_hands = True
                if not self._carrier.mesh.is_of_this_cluster(self._tls.peer_names):
                    raise ConnectionRefusedError("not a node of this cluster")
            count = self._tls.recv_into(self._buffer)
            preface = decode_preface(bytes(self._buffer[:count]))
        except BlockingIOError:
            return
        except (OSError, ValueError):
            self.close()
            return
        self._timer.cancel()
        self._listener.gone(self)
        self._carrier.loop.unwatch(self._tls.fileno())
        self._carrier.admit_from_mesh(self._tls, preface)

    def close(self) -> None:
        """Hang up."""
        self._timer.cancel()
        self._carrier.loop.close_later(self._tls)
        self._listener.gone(self)
