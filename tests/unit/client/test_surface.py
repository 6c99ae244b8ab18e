"""What users import, and that the two clients offer the same."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import services.client.build
import swarmbus
from services.client import blocking
from services.client.blocking_payloads import BlockingConfigs, BlockingSecrets
from services.client.client import Client
from services.client.clusters import Clusters
from services.client.nodes import Nodes
from services.client.payloads import Configs, Secrets
from services.client.services import Services
from services.client.socket import control_socket
from services.client.tasks import Tasks
from services.kit.runtime.paths import well_known_socket

PAIRS = (
    (Client, blocking.BlockingClient),
    (Clusters, blocking.BlockingClusters),
    (Nodes, blocking.BlockingNodes),
    (Services, blocking.BlockingServices),
    (Tasks, blocking.BlockingTasks),
    (Secrets, BlockingSecrets),
    (Configs, BlockingConfigs),
)


def public(kind: type) -> dict[str, list[str]]:
    return {
        name: list(inspect.signature(member).parameters)
        for name, member in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }


@pytest.mark.parametrize(("asynchronous", "blocked"), PAIRS, ids=lambda kind: kind.__name__)
def test_the_blocking_client_has_the_same_calls(asynchronous: type, blocked: type) -> None:
    assert public(asynchronous) == public(blocked)


def test_swarmbus_exports_exactly_what_it_names() -> None:
    names = {name for name, value in vars(swarmbus).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert names == set(swarmbus.__all__)
    assert swarmbus.__all__ == sorted(swarmbus.__all__)


def test_every_public_name_is_documented() -> None:
    missing = [name for name in swarmbus.__all__ if not inspect.getdoc(getattr(swarmbus, name))]
    assert not missing


def test_the_examples_of_the_builder_are_true() -> None:
    result = doctest.testmod(services.client.build)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_socket_is_the_given_one_else_the_variable_else_the_well_known_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWARM_SOCKET", "/from/environment")
    assert control_socket("/given") == "/given"
    assert control_socket() == "/from/environment"
    monkeypatch.delenv("SWARM_SOCKET")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert control_socket() == str(tmp_path / "swarmbus" / "control.sock") == str(well_known_socket())
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert control_socket().endswith("swarmbus-1000/control.sock")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert control_socket() == "/run/swarmbus/control.sock"
