"""A client of a TLS port until it has said which service it means: then its TLS is passed on whole, or ends here.

Made by the carrier for ports that are told apart by the name in TLS. What must stay true: of a connection that is passed on not a byte is
taken out of the socket (but a trusted balancer's PROXY header); a client that does not get through its first words in time is hung up on.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from services.gateway.core import client_hello, proxy_header
from services.gateway.core.client_hello import HELLO_BYTES_MAX, BrokenHello
from services.gateway.core.proxy_header import Address, BrokenHeader
from services.gateway.plane.flow import Flow
from services.gateway.plane.loop import BOTH_ON_EDGE, GONE
from services.gateway.plane.published import Published
from services.gateway.plane.tls_stream import TlsStream

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier

ARRIVAL_TIMEOUT_S = 10.0


class TlsArrival:
    """See the module."""

    def __init__(self, carrier: Carrier, published: Published, client: socket.socket, host: str, port: int) -> None:
        self.published = published
        self.is_counted = True
        self.moved = 0
        self.moved_before = -1
        self.quiet_since = 0.0
        self.idle_s = 0.0
        """The time for arriving ends it before it could be idle."""
        self._carrier = carrier
        self._client = client
        self._source = Address(host, port)
        self._expects_header = published.expects_header(host)
        self._has_ended = False
        """The client says no more."""
        self._tls: TlsStream | None = None
        self._service = published
        self._timer = carrier.loop.later(published.settings.http_head_timeout_s or ARRIVAL_TIMEOUT_S, self.abort)

    def begin(self) -> None:
        """Wait for the first words."""
        self._carrier.loop.watch(self._client.fileno(), self._on_event, BOTH_ON_EDGE)

    def close(self) -> None:
        """End it politely: it was promised nothing."""
        self.abort()

    def abort(self) -> None:
        """Hang up."""
        self._timer.cancel()
        self._carrier.loop.close_later(self._client if self._tls is None else self._tls)
        self._carrier.ended(self)

    def _on_event(self, events: int) -> None:
        self._has_ended = self._has_ended or bool(events & GONE)
        try:
            if self._expects_header and not self._take_header():
                return
            if self._tls is None and not self._choose():
                return
            if self._tls is not None:
                self._tls.handshake()
                self._hand_over_decrypted(self._tls)
        except BlockingIOError:
            return
        except (OSError, ValueError, BrokenHeader, BrokenHello):
            self._carrier.refused += 1
            self.abort()

    def _take_header(self) -> bool:
        """Take a PROXY header out once it is whole."""
        data = self._client.recv(proxy_header.HEADER_BYTES_MAX, socket.MSG_PEEK)
        if not data:
            raise ConnectionResetError("gone before it said anything")
        header = proxy_header.parse(data)
        if header is None:
            self._wait_for_more()
            return False
        self._client.recv(header.length)
        self._source = header.source or self._source
        self._expects_header = False
        return True

    def _choose(self) -> bool:
        """Look at whom the client means; False when it is to be waited for, or somebody else has the connection."""
        data = self._client.recv(HELLO_BYTES_MAX, socket.MSG_PEEK)
        if not data:
            raise ConnectionResetError("gone before it said anything")
        name = client_hello.server_name(data)
        if name is None:
            self._wait_for_more()
            return False
        service = self.published.switchboard.owner_of_name(name)
        if service is None:
            raise ConnectionRefusedError("no service has this name here")
        if not service.settings.tls_ends:
            self._pass_on(service)
            return False
        if not isinstance(service.certificate, ssl.SSLContext):
            raise ConnectionRefusedError("the service has no certificate")
        self._service = service
        self._tls = TlsStream(self._client, service.certificate)
        return True

    def _wait_for_more(self) -> None:
        if self._has_ended:
            raise ConnectionResetError("gone in the middle of its first words")

    def _pass_on(self, service: Published) -> None:
        """Become a connection of the service's, TLS and all."""
        self._part()
        flow = Flow(self._carrier, service, self._client, self._source.host, self._source.port)
        self._carrier.began(flow)
        flow.dial()

    def _hand_over_decrypted(self, tls: TlsStream) -> None:
        self._part()
        settings = self._service.settings
        if settings.http_head_bytes_max:
            self._carrier.speak_http(self.published, tls, self._source, limits=settings, scheme="https")
            return
        flow = Flow(self._carrier, self._service, tls, self._source.host, self._source.port)
        self._carrier.began(flow)
        flow.dial()

    def _part(self) -> None:
        """Leave the connection to its next owner."""
        self._timer.cancel()
        self._carrier.loop.unwatch(self._client.fileno() if self._tls is None else self._tls.fileno())
        self._carrier.ended(self)
