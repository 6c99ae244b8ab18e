"""Constraints: what is well formed, and which node meets what."""

from __future__ import annotations

import pytest

from services.kit.model.constraints import Operator, meets, parse_constraint
from services.kit.model.ids import NodeId
from services.kit.model.objects import EngineDescription, Node, NodeDescription, NodeStatus
from services.kit.model.specs import Annotations, NodeSpec, Platform
from services.kit.model.states import Role

NODE = Node(
    id=NodeId("n1"),
    spec=NodeSpec(annotations=Annotations(labels={"Zone": "East", "empty": ""})),
    description=NodeDescription(
        hostname="box-1",
        platform=Platform(os="linux", architecture="x86_64"),
        engine=EngineDescription(labels={"disk": "ssd"}),
    ),
    status=NodeStatus(addr="192.168.1.7"),
    role=Role.WORKER,
)


@pytest.mark.parametrize(
    ("text", "key", "operator", "value"),
    [
        ("node.role==manager", "node.role", "==", "manager"),
        ("  node.role  !=  manager ", "node.role", "!=", "manager"),
        ("node.labels.a_b-c.d == x y.(z)*?+[1]^$|/\\", "node.labels.a_b-c.d", "==", "x y.(z)*?+[1]^$|/\\"),
        ("_k==::1", "_k", "==", "::1"),
        ("Node.Labels.Zone==2001:db8::/32", "Node.Labels.Zone", "==", "2001:db8::/32"),
    ],
)
def test_a_constraint_is_a_key_an_operator_and_a_value(text: str, key: str, operator: str, value: str) -> None:
    parsed = parse_constraint(text)
    assert (parsed.key, parsed.operator, parsed.value) == (key, Operator(operator), value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node.role",
        "node.role=manager",
        "==x",
        "1key==x",
        "k==x",
        "ke y==x",
        "key==",
        "key==a,b",
        "key==ü",
        "key=>x",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_constraint(text)


def test_the_first_double_equals_sign_splits_even_behind_another_operator() -> None:
    with pytest.raises(ValueError, match="identifier"):
        parse_constraint("key!=a==b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node.id==N1", True),
        ("node.id!=n1", False),
        ("NODE.HOSTNAME==BOX-1", True),
        ("node.hostname==box", False),
        ("node.role==worker", True),
        ("node.role!=manager", True),
        ("node.platform.os==LINUX", True),
        ("node.platform.arch==amd64", False),
        ("node.labels.Zone==east", True),
        ("node.labels.zone==east", False),
        ("node.labels.missing!=anything", True),
        ("node.labels.missing==anything", False),
        ("engine.labels.disk==ssd", True),
        ("engine.labels.disk==s*", False),
        ("node.ip==192.168.1.7", True),
        ("node.ip!=192.168.1.7", False),
        ("node.ip==192.168.1.0/24", True),
        ("node.ip!=192.168.2.0/24", True),
        ("node.ip==not-an-address", False),
        ("node.ip!=not-an-address", False),
        ("node.ip==2001:db8::1", False),
        ("node.unknown==x", False),
        ("node.unknown!=x", False),
    ],
)
def test_a_node_meets_what_it_has(text: str, expected: bool) -> None:
    assert meets(NODE, parse_constraint(text)) is expected


def test_addresses_are_compared_by_value_not_by_spelling() -> None:
    node = Node(id=NodeId("n6"), status=NodeStatus(addr="2001:0db8:0:0::1"))
    assert meets(node, parse_constraint("node.ip==2001:db8::1"))
    nowhere = Node(id=NodeId("n0"))
    assert meets(nowhere, parse_constraint("node.ip!=10.0.0.1"))
    assert not meets(nowhere, parse_constraint("node.ip==10.0.0.1"))
