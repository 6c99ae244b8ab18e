"""One client's connection to an HTTP port: request after request, each to a task that takes new work, framed anew on the way.

Made by the carrier for ports with HTTP settings. Both sides are parsed (h11), so that what a task gets is this gateway's own writing. What
must stay true: a request is sent again only while nothing of its answer has come and nothing of its body is gone; a client that is
slow with its head is hung up on; at most ``BUFFERED_BYTES_MAX`` wait for a slow reader; the end of a task costs no waiting client an error.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import h11

from services.gateway.core.balance import Target
from services.gateway.core.http_headers import (
    BadRequest,
    answer_headers,
    check_request,
    request_headers,
    upgrade_asked,
    values,
)
from services.gateway.core.proxy_header import Address
from services.gateway.core.switchboard import host_and_path
from services.gateway.plane.dialler import Dialler
from services.gateway.plane.framed_tls import FramedTls
from services.gateway.plane.loop import BOTH_ON_EDGE, Timer
from services.gateway.plane.messages import PortSettings
from services.gateway.plane.published import Published
from services.gateway.plane.relay import Side

if TYPE_CHECKING:
    from services.gateway.plane.carrier import Carrier
    from services.gateway.plane.tls_stream import TlsStream

READ_BYTES = 1 << 16
BUFFERED_BYTES_MAX = 1 << 18
TURNS = 16
SAFE_AGAIN = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Requests that may be sent twice (RFC 9110, section 9.2.2), when they have no body."""
REASONS = {400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout", 431: b"Request Header Fields Too Large", 502: b"Bad Gateway", 503: b"Service Unavailable"}  # fmt: skip


class Wire:
    """A socket with what waits to be written, and a parser for what comes in."""

    def __init__(
        self,
        carrier: Carrier,
        sock: socket.socket | FramedTls | TlsStream,
        parser: h11.Connection,
        on_event: Callable[[], None],
    ) -> None:
        """``on_event`` is called when something can be read or written."""
        self.sock = sock
        self.parser = parser
        self.outbox = bytearray()
        self.ended = False
        """No more comes from here."""
        self.closes_when_empty = False
        self._carrier = carrier
        self._on_event = on_event

    def watch(self) -> None:
        """Hear of events from now on."""
        self._carrier.loop.watch(self.sock.fileno(), self.on_event, BOTH_ON_EDGE)

    def hand_over(self) -> None:
        """Hear of events from now on, instead of whoever did so far."""
        self._carrier.loop.hand_over(self.sock.fileno(), self.on_event)

    def on_event(self, events: int) -> None:
        """Take news from epoll."""
        del events
        self._on_event()

    def read(self) -> bool:
        """Give the parser what has come; False when there is nothing now. Raises OSError."""
        if self.ended:
            return False
        buffer = self._carrier.shared.buffer
        try:
            count = self.sock.recv_into(buffer)
        except BlockingIOError:
            return False
        self.ended = not count
        self.parser.receive_data(bytes(self._carrier.shared.view[:count]))
        return True

    def say(self, event: h11.Event) -> None:
        """Write an event, as far as it goes; raises OSError, and h11.LocalProtocolError when it makes no sense now."""
        data = self.parser.send(event)
        if data:
            self.outbox += data

    def flush(self) -> None:
        """Write what can be written; raises OSError."""
        while self.outbox:
            try:
                sent = self.sock.send(bytes(self.outbox[:READ_BYTES]))
            except BlockingIOError:
                return
            del self.outbox[:sent]

    @property
    def is_full(self) -> bool:
        """True while the other side is to wait."""
        return len(self.outbox) > BUFFERED_BYTES_MAX

    def close(self) -> None:
        """Close the socket."""
        self._carrier.loop.close_later(self.sock)


class Errand(Dialler):
    """One request's way to a task."""

    __slots__ = ("_flow",)

    def __init__(self, flow: HttpFlow, carrier: Carrier, published: Published, source: Address) -> None:
        """``published`` is the service's part of the port."""
        super().__init__(carrier, published, source)
        self._flow = flow

    @property
    def _asked_at(self) -> Address:
        return self._flow.asked_at

    def _connected(self, events: int) -> None:
        assert self._upstream is not None, "an attempt has a socket"
        assert self._target is not None, "an attempt has a task"
        self._succeeded(self._target)
        self._flow.reached(self._upstream, self._target)

    def _give_up(self) -> None:
        self._flow.unreachable()

    def leave(self) -> None:
        """Nobody waits for it any more."""
        self._leave_target()


class HttpFlow:
    """See the module."""

    def __init__(
        self,
        carrier: Carrier,
        published: Published,
        client: socket.socket | TlsStream,
        source: Address,
        *,
        limits: PortSettings,
        scheme: str,
    ) -> None:
        """``published`` is the door, ``limits`` are those for heads; ``scheme`` is what the client speaks with this gateway."""
        self.published = published
        self.is_counted = True
        self.moved = 0
        self.moved_before = -1
        self.quiet_since = 0.0
        self._carrier = carrier
        self._source = source
        self._scheme = scheme
        self._service = published
        """The service's part of the port that the last request was for."""
        self._settings = limits
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._settings.http_head_bytes_max)
        self._client = Wire(carrier, client, parser, self._go_on)
        self._upstream: Wire | None = None
        self._target: Target | None = None
        self._errand: Errand | None = None
        self._request: h11.Request | None = None
        """The one that is being answered."""
        self._is_unsent = False
        """A task is there that has not been sent it."""
        self._is_unreachable = False
        """There is no task for it."""
        self._may_repeat = False
        self._answer_begun = False
        self._asked_for_at = 0.0
        """When the request's head was whole."""
        self._closes = False
        self._head_timer: Timer | None = None
        self._is_over = False
        self._sides: tuple[Side, Side] | None = None
        """After a switch to another protocol."""

    # -- as the carrier sees it

    @property
    def idle_s(self) -> float:
        """How long it may be idle; 0 means for ever."""
        return self.published.idle_s

    @property
    def asked_at(self) -> Address:
        """The address at which the client asked."""
        host, port = self._client.sock.getsockname()[:2]
        return Address(host, port)

    def begin(self) -> None:
        """Wait for the first request."""
        self._await_head()
        self._client.watch()

    def close(self) -> None:
        """End it politely: at once when nothing is being answered, else after the answer."""
        self._closes = True
        if self._sides is not None:
            self._sides[0].finish()
        elif self._request is None:
            self._end()

    def abort(self) -> None:
        """End it now."""
        if self._sides is not None:
            self._sides[0].abort()
        else:
            self._end()

    def over(self) -> None:
        """Both sockets of a switched connection are closed."""
        self._sides = None
        self._count_out()
        self._is_over = True
        self._carrier.ended(self)

    # -- the errand's answers

    def reached(self, sock: socket.socket | FramedTls, target: Target) -> None:
        """A task is there: send it the request."""
        self._errand = None
        self._target = target
        self._upstream = Wire(self._carrier, sock, h11.Connection(h11.CLIENT), self._go_on)
        self._upstream.hand_over()
        self._is_unsent = True
        self._carrier.loop.again(self._go_on)

    def unreachable(self) -> None:
        """No task could be reached."""
        self._errand = None
        self._carrier.refused += 1
        self._is_unreachable = True
        self._carrier.loop.again(self._go_on)

    # -- the conversation

    def _go_on(self) -> None:
        """Do what can be done, and end what cannot go on."""
        try:
            try:
                self._go_steps()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint, "this is not HTTP")
                self._flush()
            except BadRequest as error:
                self._refuse(error.status, error.reason)
                self._flush()
        except (OSError, h11.LocalProtocolError):
            self._end()

    def _go_steps(self) -> None:
        """Do a bounded number of steps, and come back for more."""
        for _ in range(TURNS):
            if self._has_parted():
                return
            was_stuffed = self._is_stuffed
            did = self._step()
            if self._has_parted():
                return
            self._flush()
            if not did and not (was_stuffed and not self._is_stuffed):
                return
        self._carrier.loop.again(self._go_on)

    def _has_parted(self) -> bool:
        """True when this is over, or another protocol is spoken."""
        return self._is_over or self._sides is not None

    @property
    def _is_stuffed(self) -> bool:
        """True while one side waits until the other has read."""
        return self._client.is_full or (self._upstream is not None and self._upstream.is_full)

    def _step(self) -> bool:
        """Take one event from either side; False when there is nothing to do now."""
        upstream = self._upstream
        if self._is_unreachable:
            self._is_unreachable = False
            raise BadRequest(503, "no task can be reached")
        if self._is_unsent:
            self._is_unsent = False
            self._send_request()
        did = False
        if not self._client.is_full and upstream is not None:
            did = self._hear_task(upstream)
        if not self._has_parted() and not (self._upstream is not None and self._upstream.is_full):
            did = self._hear_client() or did
        return did

    def _hear_client(self) -> bool:
        client = self._client
        if client.closes_when_empty or (self._request is not None and self._upstream is None):
            return False  # the answer is the last one, or the request has no task yet
        event = self._next_event(client)
        match event:
            case h11.Request():
                self._take_request(event)
            case h11.Data():
                self._count(len(event.data), 0)
                self._may_repeat = False
                self._tell_task(event)
            case h11.EndOfMessage():
                self._tell_task(event)
            case h11.ConnectionClosed():
                if self._request is not None:  # it has said all it had to say, and hears the answer
                    self._closes = True
                    return False
                self._end()
            case _:
                return False
        return True

    def _hear_task(self, upstream: Wire) -> bool:
        try:
            event = self._next_event(upstream)
        except (OSError, h11.RemoteProtocolError):
            self._task_lost()
            return True
        match event:
            case h11.InformationalResponse(status_code=101):
                self._switch(event)
            case h11.InformationalResponse():
                self._client.say(event)
            case h11.Response():
                self._answer_begun = True
                if self._target is not None:
                    self._target.answers.took(self._carrier.loop.now - self._asked_for_at)
                self._closes = self._closes or self._client.parser.their_state is h11.MUST_CLOSE
                headers = answer_headers(list(event.headers), closes=self._closes)
                self._client.say(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
            case h11.Data():
                self._count(0, len(event.data))
                self._client.say(h11.Data(data=event.data))
            case h11.EndOfMessage():
                self._client.say(h11.EndOfMessage())
                self._answered()
            case h11.ConnectionClosed():
                self._task_lost()
            case _:
                return False
        return True

    def _next_event(self, wire: Wire) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = wire.parser.next_event()
        while event is h11.NEED_DATA and wire.read():
            event = wire.parser.next_event()
        return event

    def _take_request(self, request: h11.Request) -> None:
        self._stop_waiting()
        check_request(request.method, request.target, request.http_version, list(request.headers))
        self._request = request
        self._asked_for_at = self._carrier.loop.now
        self._answer_begun = False
        self._may_repeat = request.method in SAFE_AGAIN
        self._find_service(request)
        if self._upstream is not None and self._is_reusable():
            self._send_request()
        else:
            self._dial()

    def _find_service(self, request: h11.Request) -> None:
        host = values(list(request.headers), b"host")
        service = self.published.switchboard.owner(*host_and_path(host[0] if host else b"", request.target))
        if service is None or (self._scheme == "https" and service.certificate is None):
            raise BadRequest(404, "no service has this name and path here")
        self._service = service

    def _dial(self) -> None:
        self._leave_task()
        self._is_unsent = False
        self._errand = Errand(self, self._carrier, self._service, self._source)
        self._errand.dial()

    def _send_request(self) -> None:
        request, upstream = self._request, self._upstream
        assert request is not None, "there is a request to send"
        assert upstream is not None, "there is a task to send it to"
        headers = list(request.headers)
        sent = request_headers(
            headers,
            client=self._source.host,
            scheme=self._scheme,
            port=self.asked_at.port,
            is_trusted=self._scheme == "http" and self.published.expects_header(self._source.host),
            upgrade=upgrade_asked(headers),
            asked_at=self.asked_at.host,
        )
        upstream.say(h11.Request(method=request.method, target=request.target, headers=sent))
        if self._client.parser.their_state is not h11.SEND_BODY:  # it was read to its end: this is another attempt
            upstream.say(h11.EndOfMessage())

    def _tell_task(self, event: h11.Data | h11.EndOfMessage) -> None:
        upstream = self._upstream
        if upstream is not None and upstream.parser.our_state is h11.SEND_BODY:
            upstream.say(h11.Data(data=event.data) if isinstance(event, h11.Data) else h11.EndOfMessage())

    def _answered(self) -> None:
        """One answer is complete: get ready for the next request, or part."""
        client, upstream = self._client, self._upstream
        assert upstream is not None, "the answer came from a task"
        self._request = None
        if upstream.parser.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE} and self._is_reusable():
            upstream.parser.start_next_cycle()
        else:
            self._leave_task()
        if client.parser.our_state is h11.DONE and client.parser.their_state is h11.DONE and not self._closes:
            client.parser.start_next_cycle()
            self._await_head()
        else:
            client.closes_when_empty = True

    def _task_lost(self) -> None:
        """The task hung up: that ends the answer, or costs the client nothing, or is told to it."""
        self._leave_task()
        if self._request is None:
            return
        if self._answer_begun:
            self._end()
        elif self._may_repeat:
            self._may_repeat = False
            self._carrier.retried += 1
            self._dial()
        else:
            self._refuse(502, "the task hung up")

    def _switch(self, event: h11.InformationalResponse) -> None:
        """Both sides speak another protocol from here on: become a plain connection."""
        client, upstream = self._client, self._upstream
        assert upstream is not None, "a task agreed"
        headers = list(event.headers)
        upgrade = upgrade_asked(headers)
        client.say(
            h11.InformationalResponse(
                status_code=101, headers=answer_headers(headers, closes=False, upgrade=upgrade), reason=event.reason
            )
        )
        is_raw = isinstance(client.sock, socket.socket) and isinstance(upstream.sock, socket.socket)
        from_client = Side(client.sock, self._carrier.shared, self, is_raw=is_raw)
        from_task = Side(upstream.sock, self._carrier.shared, self, is_raw=is_raw)
        from_client.peer, from_task.peer = from_task, from_client
        for side, wire, waiting in ((from_client, client, upstream.outbox), (from_task, upstream, client.outbox)):
            side.peer_gone = True  # its end may have been announced while HTTP was spoken, and is not announced again
            words = bytes(waiting) + wire.parser.trailing_data[0]
            if words:
                side.say_first(words)
        self._sides = (from_client, from_task)
        self._upstream = None
        self._carrier.loop.hand_over(client.sock.fileno(), from_client.on_event)
        self._carrier.loop.hand_over(upstream.sock.fileno(), from_task.on_event)
        from_client.pump()
        if not from_task.dead:
            from_task.pump()

    # -- ends

    def _is_reusable(self) -> bool:
        """Tell whether the task of the last request may get the next one."""
        target = self._target
        return (
            target is not None
            and not target.draining
            and self._service.pool.targets.get(target.task_id) is target
            and self._upstream is not None
            and not self._upstream.ended
        )

    def _refuse(self, status: int, reason: str) -> None:
        """Answer for the task, and part; a client that heard half an answer is hung up on."""
        self._stop_waiting()
        client = self._client
        self._leave_task()
        self._request = None
        if client.parser.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self._end()
            return
        body = f"{reason}\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        client.say(h11.Response(status_code=status, headers=headers, reason=REASONS.get(status, b"")))
        client.say(h11.Data(data=body))
        client.say(h11.EndOfMessage())
        client.closes_when_empty = True

    def _flush(self) -> None:
        self._client.flush()
        if self._upstream is not None:
            try:
                self._upstream.flush()
            except OSError:
                self._task_lost()
        if self._client.closes_when_empty and not self._client.outbox:
            self._end()

    def _await_head(self) -> None:
        if self._settings.http_head_timeout_s:
            self._head_timer = self._carrier.loop.later(self._settings.http_head_timeout_s, self._on_late_head)

    def _on_late_head(self) -> None:
        """A client that began to say something and did not finish is told; one that only kept its connection is left."""
        self._head_timer = None
        if self._client.parser.trailing_data[0]:
            try:
                self._refuse(408, "the head of the request did not come")
                self._flush()
            except (OSError, h11.LocalProtocolError):
                self._end()
        elif self._request is None:
            self._await_head()

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _leave_task(self) -> None:
        if self._errand is not None:
            self._errand.leave()
            self._errand = None
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None
        self._count_out()

    def _count(self, bytes_in: int, bytes_out: int) -> None:
        self.moved += bytes_in + bytes_out
        if self._target is not None:
            self._target.bytes_in += bytes_in
            self._target.bytes_out += bytes_out

    def _count_out(self) -> None:
        if self._target is not None:
            self._target.open -= 1
            self._target = None

    def _end(self) -> None:
        """Close both sockets."""
        if self._is_over:
            return
        self._is_over = True
        self._stop_waiting()
        self._leave_task()
        self._client.close()
        self._carrier.ended(self)
