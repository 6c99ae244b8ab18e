"""Messages on their way out: appends leave at once and only with what is new, everything else waits until the log is durable.

An acknowledgement, a vote and a request for votes say something about this member's log, so they are held until it was synced (H6).
"""

from __future__ import annotations

from collections.abc import Callable

from services.kit.model.ids import NodeId
from services.raft.core.entries import Entries
from services.raft.core.messages import Ack, AnyMessage, Append
from services.raft.core.window import SentWindow

Post = Callable[[NodeId, AnyMessage], bool]
"""Puts a message on a link; False when it was not taken."""


class Outbox:
    """One member's outgoing messages."""

    def __init__(self, log: Entries, post: Post, *, heartbeat_s: float) -> None:
        self._log = log
        self._post = post
        self._heartbeat_s = heartbeat_s
        self._windows: dict[NodeId, SentWindow] = {}
        self._held: list[tuple[NodeId, AnyMessage]] = []
        self._acks: dict[NodeId, Ack] = {}

    def append(self, peer: NodeId, append: Append, now: float) -> bool:
        """Send what is new in an append; False when the link did not take it."""
        window = self._windows.get(peer)
        if window is None:
            window = self._windows[peer] = SentWindow(self._heartbeat_s * 0.9)
        trimmed = window.trim(append, self._log, now)
        if trimmed is None:
            return True
        if self._post(peer, trimmed):
            return True
        window.forget()
        return False

    def hold(self, peer: NodeId, message: AnyMessage) -> None:
        """Send a message once the log is durable; of successful acknowledgements only the furthest."""
        if isinstance(message, Ack) and message.success:
            known = self._acks.get(peer)
            if known is None or (known.term, known.next_index) < (message.term, message.next_index):
                self._acks[peer] = message
        else:
            self._held.append((peer, message))

    def flush(self) -> None:
        """Send what was held; the log is durable now."""
        held, self._held = self._held, []
        acks, self._acks = self._acks, {}
        for peer, message in (*held, *acks.items()):
            self._post(peer, message)

    def forget(self, peer: NodeId) -> None:
        """Assume that nothing under way to this peer arrives."""
        self._windows.pop(peer, None)
