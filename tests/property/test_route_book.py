"""Any sequence of full tables and changes leaves the gateway with the newest table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.core.table import Change, Gap, RouteBook
from services.kit.messages.routes import Backend, Route, RouteTable
from services.kit.model.ids import NodeId, ServiceId, TaskId

backends = st.builds(
    lambda task, port, draining: Backend(
        task_id=TaskId(task), node_id=NodeId("n"), addr="127.0.0.1", port=port, draining=draining
    ),
    st.sampled_from("abcd"),
    st.integers(20_000, 20_004),
    st.booleans(),
)
tables = st.dictionaries(st.integers(80, 86), st.lists(backends, max_size=3), max_size=6).map(
    lambda ports: {
        route.key: route
        for route in (
            Route(service_id=ServiceId("s"), published_port=port, backends=tuple(found))
            for port, found in ports.items()
        )
    }
)


def between(epoch: int, before: dict[str, Route], now: dict[str, Route]) -> RouteTable:
    return RouteTable(
        epoch=epoch,
        full=False,
        routes=tuple(route for key, route in now.items() if before.get(key) != route),
        removed=tuple(key for key in before if key not in now),
    )


@given(st.lists(st.tuples(tables, st.booleans(), st.booleans()), min_size=1, max_size=12), st.integers(0, 1000))
def test_the_book_equals_the_newest_table_whatever_came_before(
    steps: list[tuple[dict[str, Route], bool, bool]], epoch: int
) -> None:
    book = RouteBook()
    mirror: dict[str, Route] = {}
    table: dict[str, Route] = {}
    must_be_full = True
    for wanted, full, is_lost in steps:
        epoch += 1
        full = full or must_be_full
        update = (
            RouteTable(epoch=epoch, full=True, routes=tuple(wanted.values())) if full else between(epoch, table, wanted)
        )
        table = wanted
        if is_lost:
            stale = dict(book.routes)
            assert isinstance(book.take(between(epoch + 1, wanted, wanted)), Gap), "a change after a gap is noticed"
            assert book.routes == stale, "and changes nothing"
            must_be_full = True
            continue
        change = book.take(update)
        must_be_full = False
        assert isinstance(change, Change)
        if change.full:
            mirror = {}
        for key in change.removed:
            del mirror[key]
        mirror.update((route.key, route) for route in change.routes)
        assert book.routes == table
        assert mirror == table, "who only hears the changes has the same table"
        assert book.epoch == epoch


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=5))
def test_revoked_keys_are_kept_until_there_is_a_new_list(keys: list[bytes]) -> None:
    book = RouteBook()
    book.take(RouteTable(epoch=1, full=True, revoked=tuple(keys)))
    book.take(RouteTable(epoch=2, full=False))
    assert book.revoked == frozenset(keys)
    book.take(RouteTable(epoch=3, full=False, revoked=(b"new",)))
    assert book.revoked == {b"new"}
    book.take(RouteTable(epoch=1, full=True))
    assert book.revoked == frozenset()
