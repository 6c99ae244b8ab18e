"""What is heard of nodes, on its way into the store. A loop like the others, with an inbox.

Keys are node ids. The newest word on each node (registered with this description, silent, unknown to a new leader) is kept until it can
be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from services.dispatcher.core.picture import Key, Picture, Plan, Step
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node, NodeDescription
from services.kit.model.states import NodeState
from services.kit.model.value import Value
from services.kit.state.state import Event
from services.kit.state.tables import Table
from services.kit.state.view import View

LEADER_CHANGED = "not heard of since the leader changed"

_replace = msgspec.structs.replace


class Word(Value, frozen=True, kw_only=True):
    """The newest word on a node."""

    state: NodeState
    message: str = ""
    addr: str = ""
    """Empty leaves it as it is."""
    description: NodeDescription | None = None


class Presence:
    """The inbox of words on nodes, and the loop that empties it."""

    name = "presence"
    tables: frozenset[Table] = frozenset()

    def __init__(self) -> None:
        self._inbox: dict[NodeId, Word] = {}

    def begin(self, view: Picture) -> Iterable[Key]:
        """Nothing is remembered."""
        self._inbox = {}
        return ()

    def notice(self, view: Picture, event: Event) -> Iterable[Key]:
        """The store tells nothing new here."""
        return ()

    def hear(self, view: View, node_id: NodeId, word: Word) -> bool:
        """Take the newest word on a node; False when the store says so already and nothing older is on its way."""
        node = view.nodes.get(node_id)
        if node is None or (node_id not in self._inbox and _written(node, word, 0.0) is None):
            return False
        self._inbox[node_id] = word
        return True

    def stored(self, event: Event) -> NodeId | None:
        """Take what the store applied to a node; return it when the newest word on it is stored or void."""
        node_id = NodeId(event.object.id)
        word = self._inbox.get(node_id)
        if word is None or (isinstance(event.new, Node) and _written(event.new, word, 0.0) is not None):
            return None
        del self._inbox[node_id]
        return node_id

    def plan(self, view: Picture, keys: Sequence[Key], now: float) -> Plan:
        """Write what is in the inbox."""
        steps: list[Step] = []
        for key in keys:
            node_id = NodeId(str(key))
            word, node = self._inbox.get(node_id), view.nodes.get(node_id)
            fresh = None if word is None or node is None else _written(node, word, now)
            if fresh is not None:
                steps.append(Step(key=key, puts=(fresh,)))
        return Plan(steps=steps)


def _written(node: Node, word: Word, now: float) -> Node | None:
    """Return the node with a word written to it, None when it says so already."""
    old = node.status
    since = old.since if old.state is word.state else now
    status = _replace(old, state=word.state, message=word.message, addr=word.addr or old.addr, since=since)
    fresh = _replace(node, status=status, description=word.description or node.description)
    return None if fresh == node else fresh
