"""Settings of a node: flags over environment over file, checked together, secrets never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.kit.errors import InvalidArgument
from services.kit.lifecycle.settings import ProcessSettings, load_settings, problems_of
from services.kit.model.states import Availability
from services.supervisor.config import settings_from


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("SWARMBUS_"):
            monkeypatch.delenv(name)


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.toml"
    file.write_text('hostname = "file"\navailability = "drain"\nlog_level = "warn"\n')
    monkeypatch.setenv("SWARMBUS_HOSTNAME", "environment")
    monkeypatch.setenv("SWARMBUS_LOG_LEVEL", "error")
    settings = settings_from({"log_level": "debug"}, file)
    assert (settings.log_level, settings.hostname) == ("debug", "environment")
    assert settings.availability is Availability.DRAIN


def test_several_join_addresses_are_read_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARMBUS_JOIN_ADDR", "10.0.0.1:4242, 10.0.0.2:4242")
    assert settings_from({}, None).join_addr == ("10.0.0.1:4242", "10.0.0.2:4242")


def test_an_unknown_key_of_the_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('hostnam = "x"\n')
    with pytest.raises(ValidationError):
        settings_from({}, file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        settings_from({}, tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    "flags",
    [
        {"listen_remote_api": "4242"},
        {"listen_remote_api": "127.0.0.1:0"},
        {"listen_remote_api": "127.0.0.1:65534"},
        {"join_addr": ("nowhere",)},
        {"join_token": "SWMTKN-x"},
        {"join_addr": ("a:1",), "force_new_cluster": "true"},
        {"election_tick": "2", "heartbeat_tick": "2"},
        {"log_level": "loud"},
        {"state_dir": "/" + "d" * 100},
    ],
)
def test_wrong_settings_are_refused_without_showing_the_token(flags: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        settings_from(flags, None)
    problems = problems_of(caught.value)
    assert problems
    assert all(problem.reason for problem in problems)
    assert "SWMTKN" not in str(problems)


def test_a_process_reads_its_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWARMBUS_STATE_DIR", str(tmp_path))
    settings = load_settings(ProcessSettings)
    assert settings.socket("raft") == f"{tmp_path}/run/raft.sock"


def test_a_process_without_a_state_directory_says_so() -> None:
    with pytest.raises(InvalidArgument, match="state_dir"):
        load_settings(ProcessSettings)
