"""Settings of a node: flags over environment over file, checked together, secrets never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.kit.errors import InvalidArgument
from services.kit.lifecycle.settings import Positive, ProcessSettings, load_settings
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
    with pytest.raises(InvalidArgument):
        settings_from({}, file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="there is no file"):
        settings_from({}, tmp_path / "nothing.toml")


@pytest.mark.parametrize(
    "flags",
    [
        {"listen_remote_api": "4242"},
        {"listen_remote_api": "127.0.0.1:0"},
        {"listen_remote_api": "127.0.0.1:65534"},
        {"join_addr": ("nowhere",)},
        {"join_token": "SWMTKN-x"},
        {"election_tick": "2", "heartbeat_tick": "2"},
        {"log_level": "loud"},
        {"state_dir": "/" + "d" * 100},
    ],
)
def test_wrong_settings_are_refused_without_showing_the_token(flags: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        settings_from(flags, None)
    assert all(problem.reason for problem in caught.value.problems)
    assert "SWMTKN" not in str(caught.value)


class SomeSettings(ProcessSettings, frozen=True, kw_only=True):
    interval_s: Positive = 1.5
    names: tuple[str, ...] = ("a",)
    loud: bool = False


def test_a_process_reads_its_settings_from_the_environment(tmp_path: Path) -> None:
    environment = {
        "SWARMBUS_STATE_DIR": str(tmp_path),
        "SWARMBUS_INTERVAL_S": "0.25",
        "SWARMBUS_NAMES": '["x", "y"]',
        "SWARMBUS_LOUD": "true",
    }
    settings = load_settings(SomeSettings, environment)
    assert settings.socket("raft") == f"{tmp_path}/run/raft.sock"
    assert (settings.interval_s, settings.names, settings.loud) == (0.25, ("x", "y"), True)


def test_a_process_names_every_wrong_setting_at_once() -> None:
    environment = {"SWARMBUS_INTERVAL_S": "-1", "SWARMBUS_LOUD": "perhaps", "SWARMBUS_NAMES": "[1]"}
    with pytest.raises(InvalidArgument) as caught:
        load_settings(SomeSettings, environment)
    assert {problem.path for problem in caught.value.problems} == {"state_dir", "interval_s", "loud", "names"}


def test_a_state_directory_whose_sockets_would_not_fit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="bytes"):
        load_settings(SomeSettings, {"SWARMBUS_STATE_DIR": "/" + "d" * 100})
