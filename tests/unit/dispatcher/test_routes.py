"""Routes: what gateways are told of removed nodes, and where tasks are."""

from __future__ import annotations

from services.dispatcher.core.routes import RouteBook
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import Cluster, RevokedCertificate
from services.kit.state.state import Event, State
from services.kit.state.tables import Table
from services.kit.state.transaction import Action, Transaction, create


def cluster_with(*keys: bytes) -> Cluster:
    revoked = tuple(RevokedCertificate(node_id=NodeId("gone"), public_key=key, expires_at=1e12) for key in keys)
    return Cluster(id=ClusterId("c"), revoked=revoked)


def state_with(cluster: Cluster) -> State:
    state = State()
    state.apply(Transaction(client="t", sequence=1, at=1.0, ops=(create(cluster),)))
    return state


def test_a_full_table_names_all_revoked_keys() -> None:
    assert RouteBook(state_with(cluster_with(b"a", b"b"))).full().revoked == (b"a", b"b")


def test_a_newly_revoked_key_makes_a_change_with_all_of_them_and_nothing_else_does() -> None:
    old, new = cluster_with(b"a"), cluster_with(b"a", b"b")
    book = RouteBook(state_with(old))
    event = Event(action=Action.UPDATE, table=Table.CLUSTER, old=old, new=new)
    state = state_with(new)
    book.notice(state, event)
    table = book.refresh(state)
    assert table is not None
    assert (table.full, table.revoked, table.epoch) == (False, (b"a", b"b"), book.epoch)
    book.notice(state, event)
    assert book.refresh(state) is None
