"""Roles: what moves at once, what waits for raft, and who has to leave it."""

from __future__ import annotations

import msgspec

from services.dispatcher.core.loops.roles import Roles
from services.dispatcher.core.planning import Planning
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.model.specs import NodeSpec
from services.kit.model.states import Role
from services.kit.state.state import State
from services.kit.state.transaction import Op, Transaction, TxResult, create, remove, update

_replace = msgspec.structs.replace
ME = NodeId("m1")


class Scene:
    """Nodes, raft's members, and the loop between them."""

    def __init__(self, **roles: Role) -> None:
        self._store = State()
        self.state = State()
        self.members = {NodeId(name) for name, role in roles.items() if role is Role.MANAGER}
        self._sequence = 0
        for name, role in roles.items():
            self.write(create(Node(id=NodeId(name), spec=NodeSpec(desired_role=role), role=role)))
        self.become_leader()

    def become_leader(self) -> None:
        self.roles = Roles()
        self.planning = Planning(self.state, (self.roles,))
        self.roles.hear(self.members)

    def write(self, *ops: Op) -> TxResult:
        self._sequence += 1
        transaction = Transaction(client="test", sequence=self._sequence, at=0.0, ops=ops)
        result, changes = self._store.apply(transaction)
        events = self.state.absorb(self._store.version, changes, 0.0)
        if hasattr(self, "planning"):
            self.planning.absorb(events, 0.0)
        return result

    def want(self, name: str, role: Role) -> None:
        node = self.state.nodes[NodeId(name)]
        self.write(update(_replace(node, spec=_replace(node.spec, desired_role=role))))

    def settle(self) -> None:
        while self.planning.due() is not None:
            for flight in self.planning.run(0.0):
                self.planning.answer(flight.number, self.write(*flight.ops), 0.0)

    def leave(self, name: str) -> None:
        self.members.discard(NodeId(name))
        self.planning.nudge(self.roles, self.roles.hear(self.members))
        self.settle()

    def role(self, name: str) -> Role:
        return self.state.nodes[NodeId(name)].role

    @property
    def leaving(self) -> tuple[NodeId, ...]:
        return self.roles.leaving(self.state, ME)


def three_managers() -> Scene:
    return Scene(m1=Role.MANAGER, m2=Role.MANAGER, m3=Role.MANAGER, w1=Role.WORKER)


def test_a_swarm_in_which_all_are_what_they_shall_be_is_left_alone() -> None:
    scene = three_managers()
    scene.settle()
    assert scene.state.version == 4
    assert not scene.leaving


def test_a_promoted_worker_is_called_a_manager_at_once() -> None:
    scene = three_managers()
    scene.want("w1", Role.MANAGER)
    scene.settle()
    assert scene.role("w1") is Role.MANAGER
    assert not scene.leaving


def test_a_demoted_manager_leaves_raft_before_it_is_called_a_worker() -> None:
    scene = three_managers()
    scene.want("m2", Role.WORKER)
    scene.settle()
    assert scene.role("m2") is Role.MANAGER
    assert scene.leaving == ("m2",)
    scene.leave("m2")
    assert scene.role("m2") is Role.WORKER
    assert not scene.leaving


def test_the_leader_goes_last() -> None:
    scene = three_managers()
    scene.want("m1", Role.WORKER)
    scene.want("m3", Role.WORKER)
    assert scene.leaving == ("m3", "m1")


def test_the_last_member_stays_whatever_it_shall_be() -> None:
    scene = Scene(m1=Role.MANAGER)
    scene.want("m1", Role.WORKER)
    scene.settle()
    assert not scene.leaving
    assert scene.role("m1") is Role.MANAGER


def test_members_whose_node_was_deleted_have_to_leave_also_under_a_new_leader() -> None:
    scene = three_managers()
    scene.write(remove(scene.state.nodes[NodeId("m3")]))
    assert scene.leaving == ("m3",)
    scene.become_leader()
    assert scene.leaving == ("m3",)


def test_a_new_leader_takes_up_what_the_last_one_began() -> None:
    scene = three_managers()
    scene.want("m2", Role.WORKER)
    scene.want("w1", Role.MANAGER)
    scene.members.discard(NodeId("m2"))
    scene.become_leader()
    scene.settle()
    assert (scene.role("m2"), scene.role("w1")) == (Role.WORKER, Role.MANAGER)


def test_a_manager_that_is_wanted_again_before_it_left_stays() -> None:
    scene = three_managers()
    scene.want("m2", Role.WORKER)
    scene.settle()
    scene.want("m2", Role.MANAGER)
    scene.settle()
    assert not scene.leaving
    assert scene.role("m2") is Role.MANAGER


def test_nobody_is_called_a_worker_while_raft_has_not_said_who_its_members_are() -> None:
    scene = three_managers()
    scene.want("m2", Role.WORKER)
    roles = Roles()
    plan = roles.plan(Planning(scene.state, (roles,)).desk, [NodeId("m2")], 0.0)
    assert not plan.steps
    assert not roles.leaving(scene.state, ME)
