"""The rules of who may call what: one table, every kind of peer."""

from __future__ import annotations

import pytest

from services.kit.bus.api import Caller, Context, Meta
from services.kit.bus.rpc import Table
from services.kit.errors import PermissionDenied, SwarmError, Unauthenticated
from services.kit.messages.method import INSIDE, MANAGER, MANAGERS, NODES, OPEN, WORKER, Call, Cast, Feed, Owner
from services.kit.messages.registry import METHODS
from services.kit.model.value import Value


class Nothing(Value, frozen=True, kw_only=True):
    """Empty."""


METHOD = {
    "inside": Call(name="t.inside", request=Nothing, reply=Nothing, owner=Owner.CA, roles=INSIDE),
    "managers": Call(name="t.managers", request=Nothing, reply=Nothing, owner=Owner.CA, roles=MANAGERS),
    "nodes": Call(name="t.nodes", request=Nothing, reply=Nothing, owner=Owner.CA, roles=NODES),
    "open": Call(name="t.open", request=Nothing, reply=Nothing, owner=Owner.CA, roles=OPEN),
}
NOBODY = Caller(public_key=b"k" * 32)
WORKING = Caller(node_id="w", role=WORKER, cluster_id="c")
MANAGING = Caller(node_id="m", role=MANAGER, cluster_id="c")
STRANGE = Caller(node_id="s", role="swarm-janitor", cluster_id="c")


async def answer(context: Context, request: Nothing) -> Nothing:
    return request


def table(*, trusted: bool) -> Table:
    made = Table(trusted=trusted)
    for method in METHOD.values():
        made.on_call(method, answer)
    return made


def outcome(method: str, peer: Caller, meta: Meta | None = None, *, trusted: bool = False, inside: bool = False) -> str:
    """Return the id of the caller that the handler would see, or the name of the refusal."""
    made = table(trusted=trusted)
    entry = made.find(METHOD[method].name)
    assert entry is not None
    try:
        return made.admit(entry, peer, meta or Meta(), inside=inside, remaining_s=None).caller.node_id
    except SwarmError as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (NOBODY, {"open"}),
        (STRANGE, {"open"}),
        (WORKING, {"open", "nodes"}),
        (MANAGING, {"open", "nodes", "managers"}),
    ],
)
def test_over_the_network_the_role_decides_and_the_default_is_no(peer: Caller, allowed: set[str]) -> None:
    refusal = (PermissionDenied if peer.role else Unauthenticated).__name__
    for method in METHOD:
        assert outcome(method, peer) == (peer.node_id if method in allowed else refusal), method


@pytest.mark.parametrize("peer", [NOBODY, STRANGE, WORKING])
def test_the_stamp_of_a_peer_that_is_no_manager_is_not_looked_at(peer: Caller) -> None:
    meta = Meta(caller=MANAGING, forwarded=True)
    for method in METHOD:
        assert outcome(method, peer, meta) == outcome(method, peer)


def test_the_stamp_of_a_manager_counts_when_it_forwards_and_its_role_decides() -> None:
    assert outcome("nodes", MANAGING, Meta(caller=WORKING, forwarded=True)) == "w"
    assert outcome("managers", MANAGING, Meta(caller=WORKING, forwarded=True)) == "PermissionDenied"
    assert outcome("managers", MANAGING, Meta(caller=NOBODY, forwarded=True)) == "Unauthenticated"
    assert outcome("inside", MANAGING, Meta(caller=MANAGING, forwarded=True)) == "PermissionDenied"
    assert outcome("managers", MANAGING, Meta(caller=WORKING)) == "m"


def test_inside_the_node_every_method_is_open_and_the_stamp_is_believed() -> None:
    peer = Caller(addr="uid:0", process="gateway")
    for method in METHOD:
        assert outcome(method, peer, Meta(caller=WORKING), trusted=True, inside=True) == "w"
        assert outcome(method, peer, trusted=True, inside=True) == ""


def test_an_inner_table_behind_a_network_listener_still_checks_roles() -> None:
    assert outcome("inside", MANAGING, trusted=True, inside=False) == "PermissionDenied"
    assert outcome("nodes", WORKING, Meta(caller=MANAGING), trusted=True, inside=False) == "w"


def test_an_outer_table_behind_a_local_socket_still_checks_roles() -> None:
    assert (
        outcome("nodes", Caller(addr="uid:0"), Meta(caller=MANAGING), trusted=False, inside=True) == "Unauthenticated"
    )


def test_no_method_of_the_product_is_open_to_the_network_without_a_certificate_but_the_ways_to_get_one() -> None:
    assert {method.name for method in METHODS if "*" in method.roles} == {"identity.issue", "identity.return"}


def test_a_second_handler_for_a_method_is_a_mistake_in_the_program() -> None:
    made = table(trusted=False)
    with pytest.raises(AssertionError, match="two handlers"):
        made.on_call(METHOD["open"], answer)
    feed = Feed(name="t.open", request=Nothing, item=Nothing, owner=Owner.CA)
    with pytest.raises(AssertionError, match="two handlers"):
        made.on_feed(feed, lambda context, request: aiter(()))  # type: ignore[arg-type]
    cast = Cast(name="t.open", message=Nothing, owner=Owner.CA)
    with pytest.raises(AssertionError, match="two handlers"):
        made.on_cast(cast, lambda context, message: None)
