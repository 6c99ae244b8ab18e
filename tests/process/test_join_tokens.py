"""Join tokens: rotated, limited in time and number, all with the commands that a user types."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.kit.lifecycle.exit_codes import ExitCode
from tests.support.swarm import Swarm, SwarmNode, wait_until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def refused(swarm: Swarm, name: str, token: str) -> str:
    """Join with a token that is not taken; returns what was said."""
    first = swarm.nodes["n1"]
    node = swarm.node(name, "--join-addr", first.remote_api, "--join-token", token).start(wait=False)
    assert node.wait_end() == ExitCode.USAGE, node.log_end()
    assert not node.state_dir.exists()
    return "\n".join(line for line in node.lines if line.startswith("supervisor:"))


def joined(swarm: Swarm, name: str, token: str) -> SwarmNode:
    first = swarm.nodes["n1"]
    return swarm.node(name, "--join-addr", first.remote_api, "--join-token", token).start()


def rotate(first: SwarmNode, *words: str) -> str:
    return first.swarmctl("cluster", "update", "--rotate-join-token", *words).strip()


def test_a_rotated_token_lets_nobody_in_and_limits_are_kept(tmp_path: Path) -> None:
    with Swarm(tmp_path) as swarm:
        first = swarm.start("n1")
        old, manager = swarm.token("worker"), swarm.token("manager")
        once = rotate(first, "worker", "--token-uses", "1")
        assert once != old
        assert swarm.token("manager") == manager, "the other one stays"
        assert "a valid join token is necessary" in refused(swarm, "n2", old)
        assert f"{once} for 1 more" in first.swarmctl("cluster", "inspect")

        joined(swarm, "n3", once)
        assert "as many nodes as it may" in refused(swarm, "n4", once)

        brief = rotate(first, "worker", "--token-lives", "1ms")
        assert "until" in first.swarmctl("cluster", "inspect")
        assert "expired" in refused(swarm, "n5", brief)

        plain = rotate(first, "worker")
        joined(swarm, "n6", plain)
        wait_until(lambda: first.swarmctl("node", "ls").count("Ready") == 3, "two of them have joined")
        said = first.swarmctl("cluster", "update", "--token-uses", "1", "--cert-expiry", "2h", code=2)
        assert "give --rotate-join-token as well" in said
