"""A cluster volume from swarmctl to its driver, a real program, and away again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.swarm import Swarm, wait_until

pytestmark = pytest.mark.process
DRIVER = """#!/bin/sh
request=$(cat)
echo "$1 $request" >> {log}
case $1 in
  info) echo '{{"topology": {{"segments": {{"rack": "7"}}}}}}' ;;
  create) echo '{{"volume_id": "their-data", "capacity_bytes": 1073741824}}' ;;
esac
"""


def test_a_volume_is_made_shown_and_destroyed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Swarm(tmp_path) as swarm:
        node = swarm.node("n1")
        drivers = node.state_dir / "volume-drivers"
        drivers.mkdir(parents=True, mode=0o700)
        program = drivers / "shared"
        program.write_text(DRIVER.format(log=log))
        program.chmod(0o755)
        node.start()
        made = node.swarmctl(
            "volume", "create", "data", "--driver", "shared", "--size", "1GiB", "-o", "root=/srv"
        ).strip()
        wait_until(lambda: "ready" in node.swarmctl("volume", "ls"), "the volume is made")
        page = node.swarmctl("volume", "inspect", "data")
        assert made in page
        assert "1GiB" in page
        (request,) = [line for line in log.read_text().splitlines() if line.startswith("create ")]
        assert '"root":"/srv"' in request
        with node.client() as client:
            (description,) = [each.description for each in client.nodes.list()]
        assert [(each.name, each.topology.segments) for each in description.volume_drivers] == [
            ("shared", {"rack": "7"})
        ]
        assert "taken" in node.swarmctl("volume", "create", "DATA", "--driver", "shared", code=4)
        node.swarmctl("volume", "rm", "data")
        wait_until(lambda: "data" not in node.swarmctl("volume", "ls"), "the volume is gone")
        assert any(line.startswith("delete ") for line in log.read_text().splitlines())
