"""What ``why`` and ``history`` print."""

from __future__ import annotations

from msgspec.structs import replace

from services.cli.verbs.history import changes_of, step_lines
from services.cli.verbs.why import why_lines
from services.kit.messages.control import ObjectEvent, ObjectEvents
from services.kit.messages.inquiry import Finding, NearestMiss, Refusal, WhyReply
from services.kit.model.ids import ServiceId
from services.kit.model.objects import Service
from services.kit.model.specs import Annotations, Replicated, ServiceSpec
from services.kit.state.tables import encode_object


def test_why_shows_counts_nearest_miss_and_what_would_mend_it() -> None:
    finding = Finding(
        about="3 tasks, task web.1.x and others",
        state="pending, wanted running",
        waits_for="a node that fits",
        since=100.0,
        refusals=(Refusal(reason="insufficient resources on 2 nodes", nodes=2, mend="reserve less"),),
        nearest=NearestMiss(node_id="n1", node_name="alpha", lacks=("4 GiB of memory wanted, 1 GiB of memory free",)),
        mend="reserve less",
    )
    assert list(why_lines(WhyReply(noun="service", name="web", findings=(finding,)), 160.0)) == [
        "3 tasks, task web.1.x and others (pending, wanted running)",
        "  waits for a node that fits, for 1 minute",
        "      2 × insufficient resources on 2 nodes",
        "  nearest miss: alpha: 4 GiB of memory wanted, 1 GiB of memory free",
        "  to mend it: reserve less",
    ]


def test_why_of_what_is_well_says_so() -> None:
    assert list(why_lines(WhyReply(noun="node", name="alpha"), 0.0)) == ["node alpha is as it should be"]


def test_history_shows_who_and_which_fields_changed() -> None:
    old = Service(id=ServiceId("s"), spec=ServiceSpec(annotations=Annotations(name="web")))
    new = replace(old, spec=replace(old.spec, mode=Replicated(replicas=3)))
    event = ObjectEvent(action="update", table="service", object=encode_object(new), old=encode_object(old))
    step = ObjectEvents(version=7, events=(event,), actor="user 0 on n1", cause="control.update_service", at=0.0)
    assert list(step_lines(step)) == [
        "7  -  user 0 on n1: control.update_service",
        "    update service web",
        "        spec.mode.replicas: 1 → 3",
    ]
    assert changes_of(replace(event, old=b"")) == []
