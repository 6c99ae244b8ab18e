"""The small words of Docker's API: filters, times, versions, errors, log frames."""

from __future__ import annotations

import json

import pytest

from services.kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SwarmError,
    Unavailable,
    Unimplemented,
)
from services.kit.messages.logs import LogLine
from services.kit.model.ids import NodeId, ServiceId, TaskId
from services.kit.model.states import LogStream
from services.web.core.failures import answer
from services.web.core.filters import among, begins, labelled, read_filters, switch
from services.web.core.log_frames import log_bytes
from services.web.core.missing import reason
from services.web.core.times import ZERO, moment, rfc3339
from services.web.core.versions import split_path


def test_filters_come_as_mappings_or_lists() -> None:
    text = json.dumps({"name": {"web": True, "off": False}, "label": ["a", "b=1"]})
    wanted = read_filters(text, ("name", "label"))
    assert wanted == {"name": ("web",), "label": ("a", "b=1")}
    assert begins(wanted, "name", "webhook")
    assert not among(wanted, "name", "webhook")
    assert labelled(wanted, "label", {"a": "x", "b": "1"})
    assert not labelled(wanted, "label", {"a": "x", "b": "2"})
    assert among(wanted, "id", "anything")
    assert switch(read_filters('{"up": ["true"]}', ("up",)), "up") is True


@pytest.mark.parametrize("text", ['{"colour": ["red"]}', "[]", "{", '{"name": "web"}', '{"name": [1]}'])
def test_wrong_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        read_filters(text, ("name",))


def test_times_go_both_ways() -> None:
    assert rfc3339(1_700_000_000.25) == "2023-11-14T22:13:20.250000000Z"
    assert rfc3339(0) == ZERO
    assert moment("2023-11-14T22:13:20.250000000Z", "since") == 1_700_000_000.25
    assert moment("1700000000.5", "since") == 1_700_000_000.5
    assert moment("", "since") == 0
    with pytest.raises(InvalidArgument):
        moment("yesterday", "since")


def test_a_path_says_its_version() -> None:
    assert split_path("/v1.44/services/web") == ((1, 44), "/services/web")
    assert split_path("/services")[1] == "/services"
    with pytest.raises(InvalidArgument, match="too new"):
        split_path("/v1.99/info")
    with pytest.raises(InvalidArgument, match="too old"):
        split_path("/v1.24/info")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NotFound("service web not found"), 404, "service web not found"),
        (AlreadyExists("taken"), 409, "rpc error: code = AlreadyExists desc = taken"),
        (Conflict("whatever"), 500, "rpc error: code = Unknown desc = update out of sequence"),
        (FailedPrecondition("no"), 400, "rpc error: code = FailedPrecondition desc = no"),
        (Unavailable("no leader"), 503, "no leader"),
        (Unimplemented("not here"), 501, "not here"),
    ],
)
def test_errors_have_dockers_codes(error: SwarmError, status: int, text: str) -> None:
    assert answer(error) == (status, text)


def test_a_log_line_is_a_frame() -> None:
    line = LogLine(
        task_id=TaskId("t"),
        node_id=NodeId("n"),
        service_id=ServiceId("s"),
        timestamp=1_700_000_000.0,
        stream=LogStream.STDERR,
        data=b"hi",
    )
    assert log_bytes(line, timestamps=False, details=False, tty=False) == b"\x02\x00\x00\x00\x00\x00\x00\x03hi\n"
    assert log_bytes(line, timestamps=True, details=True, tty=True) == (
        b"2023-11-14T22:13:20.000000000Z com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t hi\n"
    )


def test_what_docker_has_and_we_do_not_has_a_reason() -> None:
    assert "container engine" in reason("/containers/json")
    assert reason("/coffee") == ""
