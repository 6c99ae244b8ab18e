"""Which children run, and when each may begin."""

from __future__ import annotations

from services.kit.model.states import Role
from services.supervisor.core.plan import CHILDREN, NEEDS, OPTIONAL, STOP_STAGES, may_begin, optional, wanted

NOBODY: frozenset[str] = frozenset()


def begins(child: str, *ready: str, has_identity: bool = True, bootstrapping: bool = False) -> bool:
    return may_begin(child, has_identity=has_identity, bootstrapping=bootstrapping, ready=frozenset(ready))


def test_a_worker_runs_the_agent_half_and_a_manager_everything() -> None:
    assert wanted(Role.WORKER) == wanted(None) == ("gateway", "agent")
    assert set(wanted(Role.MANAGER)) == set(CHILDREN)


def test_the_web_process_runs_where_it_is_asked_for() -> None:
    assert optional(listen_http="") == ()
    assert optional(listen_http="unix:///run/docker.sock") == ("web",)
    assert begins("web", "gateway")
    assert not begins("web", "raft")


def test_before_there_is_an_identity_only_the_ca_of_a_new_cluster_begins() -> None:
    assert [child for child in CHILDREN if begins(child, has_identity=False, bootstrapping=True)] == ["ca"]
    assert not any(begins(child, has_identity=False) for child in CHILDREN)


def test_children_begin_when_what_they_need_serves() -> None:
    assert begins("raft")
    assert begins("gateway")
    assert not begins("dispatcher")
    assert begins("dispatcher", "raft")
    assert not begins("agent", "raft")
    assert begins("agent", "gateway")


def test_everything_begins_in_some_order_without_a_circle() -> None:
    ready: set[str] = set()
    for _ in CHILDREN:
        ready |= {child for child in CHILDREN if begins(child, *ready)}
    assert ready == set(CHILDREN)


def test_whoever_asks_stops_before_whoever_answers() -> None:
    stage_of = {child: number for number, stage in enumerate(STOP_STAGES) for child in stage}
    assert set(stage_of) == {*CHILDREN, *OPTIONAL}
    for child, needs in NEEDS.items():
        assert all(stage_of[child] < stage_of[needed] for needed in needs)
