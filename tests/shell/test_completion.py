"""Completion: the candidates themselves, and the scripts in the real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.completion import SCRIPTS
from services.cli.swarmctl import main
from swarmbus import BlockingClient, service_spec
from tests.support.control_server import ServedSocket

ROOT = Path(__file__).parents[2]
Text = pytest.CaptureFixture[str]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedSocket]:
    here = ServedSocket(tmp_path / "control.sock")
    monkeypatch.setenv("SWARM_SOCKET", here.path)
    with BlockingClient(here.path) as client:
        for name in ("web", "webhook", "cache"):
            client.services.create(service_spec(name, command=["true"], labels={"com.docker.stack.namespace": "app"}))
    yield here
    here.close()


def candidates(capsys: Text, *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["__complete", *words]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return [line.split("\t")[0] for line in said.out.splitlines()]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ser"], ["service"]),
        (["service", "sc"], ["scale"]),
        (["service", "ps", "we"], ["web", "webhook"]),
        (["service", "ps", "web", "ca"], ["cache"]),
        (["service", "scale", "ca"], ["cache="]),
        (["service", "update", "--update-order", "start-first", "c"], ["cache"]),
        (["service", "create", "--update-order", ""], ["stop-first", "start-first"]),
        (["service", "create", "--limit-m"], ["--limit-memory"]),
        (["service", "inspect", "web", ""], []),
        (["node", "drain", "be"], ["beta"]),
        (["stack", "rm", ""], ["app"]),
        (["stack", "deploy", "-c", ""], [":files"]),
        (["completion", "z"], ["zsh"]),
        (["nonsense", "x", ""], []),
        (["service", "nonsense", ""], []),
    ],
)
def test_candidates_fit_the_place(served: ServedSocket, capsys: Text, words: list[str], found: list[str]) -> None:
    assert candidates(capsys, *words) == found


def test_without_a_swarm_there_are_no_names_and_no_complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Text
) -> None:
    monkeypatch.setenv("SWARM_SOCKET", str(tmp_path / "nobody.sock"))
    assert candidates(capsys, "service", "ps", "") == []
    assert candidates(capsys, "service", "l") == ["ls", "logs"]


def test_the_scripts_are_printed_without_a_swarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Text) -> None:
    monkeypatch.setenv("SWARM_SOCKET", str(tmp_path / "nobody.sock"))
    for shell, script in SCRIPTS.items():
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == script
    assert main(["completion", "csh"]) == 2


_ASK = {
    "bash": """source script; COMP_WORDS=(swarmctl service ps we); COMP_CWORD=3; _swarmctl; printf '%s\\n' "${COMPREPLY[@]}" """,
    "zsh": """compdef() { :; }; _describe() { local -a found; found=("${(@P)2}"); print -l -- "${found[@]%%:*}"; }
source ./script; words=(swarmctl service ps we); CURRENT=4; _swarmctl""",
    "fish": "source script; complete -C 'swarmctl service ps we' | string split -f1 \\t",
}


@pytest.mark.parametrize("shell", sorted(_ASK))
def test_the_shell_offers_live_names(served: ServedSocket, tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    command = tmp_path / "swarmctl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m services.cli.swarmctl "$@"\n')
    command.chmod(0o755)
    (tmp_path / "script").write_text(SCRIPTS[shell])
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    option = ["--no-config"] if shell == "fish" else ["-f"] if shell == "zsh" else ["--norc"]
    done = subprocess.run(
        [program, *option, "-c", _ASK[shell]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.split() == ["web", "webhook"], done.stderr
