"""A re-sync is turned into ordinary changes."""

from __future__ import annotations

from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.state import State
from services.kit.state.transaction import Action, Op, Transaction, create, remove, update
from services.kit.store.replica import difference


def state_of(*steps: Op) -> State:
    state = State()
    for sequence, step in enumerate(steps):
        result, _ = state.apply(Transaction(client="c", sequence=sequence, at=1.0, ops=(step,)))
        assert result.conflict is None
    return state


def node(name: str, addr: str = "") -> Node:
    return Node(id=NodeId(name), remote_addr=addr)


def test_the_difference_creates_updates_and_removes() -> None:
    old = state_of(create(node("gone")), create(node("same")), create(node("changed")))
    new = state_of(
        create(node("gone")),
        create(node("same")),
        create(node("changed")),
        remove(node("gone"), base=1),
        update(node("changed", "elsewhere"), base=3),
        create(node("fresh")),
    )
    changes = difference(old, list(new.full()))
    assert {(change.action, change.id) for change in changes} == {
        (Action.REMOVE, "gone"),
        (Action.UPDATE, "changed"),
        (Action.CREATE, "fresh"),
    }
    events = old.absorb(new.version, tuple(changes), 0.0)
    assert sorted(old.full(), key=lambda c: c.id) == sorted(new.full(), key=lambda c: c.id)
    assert {event.action for event in events} == {Action.REMOVE, Action.UPDATE, Action.CREATE}


def test_equal_states_differ_in_nothing() -> None:
    state = state_of(create(node("a")))
    assert difference(state, list(state.full())) == []
