"""Locked managers: a manager that starts waits for the unlock key, takes the right one, and is none the worse for a wrong one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.kit.errors import SwarmError
from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.model.unlock_key import format_unlock_key
from services.kit.runtime.sealed_key import KEY_BYTES, is_sealed
from tests.support.swarm import ROOT, SUPERVISOR, Swarm, SwarmNode, clean_environment, run_supervisor, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]
WRONG = format_unlock_key(bytes(range(32)))


@pytest.fixture
def swarm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Swarm]:
    failed = request.session.testsfailed
    with Swarm(tmp_path) as swarm:
        yield swarm
        if request.session.testsfailed > failed:
            sys.stderr.write("\n".join(node.log_end() for node in swarm.nodes.values()) + "\n")


def unlock(node: SwarmNode, key: str) -> tuple[int, str]:
    """Give a key as a script does, by standard input; returns the code and what was said."""
    done = subprocess.run(
        [*SUPERVISOR, "unlock", "--state-dir", str(node.state_dir)],
        env=clean_environment(), cwd=ROOT, input=f"{key}\n", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert key not in done.stdout + done.stderr, "a key is not repeated"
    return done.returncode, done.stderr


def data_key(node: SwarmNode) -> bytes:
    return (node.state_dir / "raft" / "data.key").read_bytes()


def is_locked(node: SwarmNode) -> bool:
    """Tell whether a node waits for its key and runs nothing meanwhile."""
    status = node.status()
    return status.state == "locked" and not status.processes


def answers(node: SwarmNode) -> bool:
    try:
        with node.client() as client:
            return bool(client.nodes.list())
    except SwarmError:
        return False


def restart_locked(node: SwarmNode) -> None:
    node.stop()
    node.start(wait=False)
    node.wait_log("node is locked")
    assert is_locked(node)


def test_a_cluster_that_is_locked_from_its_start_waits_for_the_key_after_a_restart(swarm: Swarm) -> None:
    first = swarm.start("n1", "--autolock")
    wait_until(lambda: is_sealed(data_key(first)), "the data key is sealed")
    key = first.swarmctl("cluster", "unlock-key").strip()
    assert not any(key in line for line in first.lines), "no log shows the key"

    first.stop()
    looked = ("raft", "verify", "--state-dir", str(first.state_dir))
    assert "give the unlock key as SWARMBUS_UNLOCK_KEY" in run_supervisor(*looked).stderr
    first.start(wait=False)
    first.wait_log("node is locked")
    assert is_locked(first)
    before = data_key(first)
    code, said = unlock(first, WRONG)
    assert code != 0
    assert "not the key that the manager is locked with" in said
    assert unlock(first, "SWMKEY-1-short")[0] == ExitCode.USAGE
    assert is_locked(first)
    assert data_key(first) == before, "a wrong key does no harm"
    assert unlock(first, key) == (0, "")
    first.wait_ready()
    assert unlock(first, key)[0] == ExitCode.LOCKED, "it is not locked any more"

    pid = first.kill_process("raft")
    wait_until(lambda: first.status().pid_of("raft") not in {0, pid} and answers(first), "raft is back unattended")

    first.stop()
    first.start("--unlock-key", WRONG, wait=False)
    assert first.wait_end() == ExitCode.LOCKED
    assert data_key(first) == before
    first.start("--unlock-key", key)
    assert answers(first)
    assert key.encode() not in Path(f"/proc/{first.status().pid_of('agent')}/environ").read_bytes()


def test_the_unlock_key_is_rotated_and_a_swarm_is_locked_and_unlocked_while_it_runs(swarm: Swarm) -> None:
    first = swarm.start("n1")
    second = swarm.join("n2", role="manager")
    managers = (first, second)
    assert "not locked" in first.swarmctl("cluster", "unlock-key", code=1)
    plain = [data_key(node) for node in managers]

    first.swarmctl("cluster", "update", "--autolock", "true")
    wait_until(lambda: all(is_sealed(data_key(node)) for node in managers), "both are locked")
    old = first.swarmctl("cluster", "unlock-key").strip()
    sealed = [data_key(node) for node in managers]
    new = second.swarmctl("cluster", "unlock-key", "--rotate").strip()
    assert new != old
    wait_until(
        lambda: all(data_key(node) != before for node, before in zip(managers, sealed, strict=True)),
        "both lie under the new key",
    )
    restart_locked(second)
    assert unlock(second, old)[0] != 0, "the old key unlocks nothing any more"
    assert unlock(second, new) == (0, "")
    second.wait_ready()
    wait_until(lambda: "Reachable" in first.swarmctl("node", "ls"), "it is back")

    third = swarm.join("n3", role="manager", via=first)
    wait_until(lambda: is_sealed(data_key(third)), "a manager that joins a locked swarm is locked as well")

    first.swarmctl("cluster", "update", "--autolock", "false")
    wait_until(lambda: not any(is_sealed(data_key(node)) for node in (*managers, third)), "all are unlocked")
    for node, lay_open in zip(managers, plain, strict=True):
        wait_until(lambda node=node: len(data_key(node)) == KEY_BYTES, f"{node.name} has one data key")  # type: ignore[misc]
        assert data_key(node) != lay_open, "what lay open once seals nothing any more"
    second.stop()
    second.start()
    assert answers(second)
