"""What goes between taskd and its client: records survive the way, nonsense is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.taskd.records import (
    BadRecord,
    Exit,
    TaskInfo,
    TaskSpec,
    User,
    info_from_json,
    info_to_json,
    spec_from_json,
    spec_to_json,
)
from services.agent.taskd.wire import FRAME_BYTES_MAX, Unpacker, pack


def test_a_spec_survives_json() -> None:
    full = TaskSpec(
        "a.b-1",
        ("sh", "-c", "é\n"),
        env=("A=1",),
        directory="/x",
        user=User(1, 2, (3, 4)),
        memory_bytes=5,
        nano_cpus=6,
        pids=7,
        no_new_privileges=True,
        oom_score_adj=-8,
        stop_signal=9,
        log_bytes_max=2048,
        log_files_max=11,
        scratch=("/s",),
    )
    assert all(value != TaskSpec._field_defaults.get(name) for name, value in full._asdict().items()), "all are tried"
    for spec in (full, TaskSpec("x", ("true",))):
        assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


def test_what_is_known_of_a_task_survives_json() -> None:
    for end in (None, Exit(signal=9, oom=True, at=1.5, message="m"), Exit()):
        info = TaskInfo("t", 1, 2.5, end, 3)
        assert info_from_json(json.loads(json.dumps(info_to_json(info)))) == info


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "../x"}, "not a task id"),
        ({"id": ".hidden"}, "not a task id"),
        ({"command": []}, "empty"),
        ({"command": "sh"}, "list of texts"),
        ({"env": [1]}, "list of texts"),
        ({"directory": "x"}, "absolute"),
        ({"command": ["a\0"]}, "NUL"),
        ({"memory_bytes": "1"}, "not a number"),
        ({"log_files_max": 1}, "two files"),
        ({"colour": 1}, "unknown fields: colour"),
    ],
)
def test_a_spec_that_no_task_could_run_with_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        spec_from_json({"id": "t", "command": ["true"], **change})


@given(st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=20)), max_size=5), st.data())
def test_messages_come_out_as_they_went_in_however_the_stream_is_cut(
    messages: list[dict[str, object]], data: st.DataObject
) -> None:
    stream = b"".join(map(pack, messages))
    cut = data.draw(st.integers(0, len(stream)))
    unpacker = Unpacker()
    assert unpacker.feed(stream[:cut]) + unpacker.feed(stream[cut:]) == messages


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(BadRecord, match="over the limit"):
        Unpacker().feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(BadRecord, match="over the limit"):
        pack({"x": "y" * FRAME_BYTES_MAX})
