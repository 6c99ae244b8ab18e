"""``supervisor doctor`` beside real nodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.swarm import Swarm, run_supervisor

pytestmark = pytest.mark.process


def examined(*words: str) -> tuple[int, list[dict[str, str]]]:
    done = run_supervisor("doctor", "--json", *words)
    assert done.stderr == ""
    findings: list[dict[str, str]] = json.loads(done.stdout)
    return done.returncode, findings


def said(findings: Sequence[dict[str, str]], about: str) -> str:
    return "\n".join(f"{each['level']} {each['what']}" for each in findings if each["about"] == about)


def test_the_doctor_sees_a_healthy_worker_then_a_lost_manager_and_a_taken_port(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        manager = swarm.start("n1")
        worker = swarm.join("n2", role="worker")
        code, findings = examined("--state-dir", str(worker.state_dir))
        assert code == 0, findings
        assert "2 processes serve" in said(findings, "processes")
        assert f"fine {manager.remote_api} is reached" in said(findings, "managers")
        assert f"the clock of {manager.remote_api}" in said(findings, "clock")
        assert "swarm-worker" in said(findings, "certificate")
        code, findings = examined("--state-dir", str(manager.state_dir))
        assert code == 0, findings
        assert f"this manager is reached at {manager.remote_api}" in said(findings, "ports")
        code, findings = examined("--state-dir", str(tmp_path / "n3"), "--listen-remote-api", manager.remote_api)
        assert code == 1
        assert "another process listens there" in said(findings, "ports")
        manager.stop()
        code, findings = examined("--state-dir", str(worker.state_dir))
        assert code == 1
        assert "problem 127.0.0.1 is not reached on port" in said(findings, "managers")
