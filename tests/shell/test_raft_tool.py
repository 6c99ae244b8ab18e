"""The operator's tool: what a stopped member's files hold, whether they are whole, and which member to go on with."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.model.ids import NodeId
from services.kit.model.objects import Node
from services.kit.state.transaction import create
from services.raft.shell.inspection import Inspection, Standing
from services.raft.tool import main
from tests.support.raft_home import Home, Homes, run_homes

ROOT = Path(__file__).parents[2]


def written(directory: Path, *names: str, writes: int = 30, size: int = 0, **settings: object) -> dict[str, Path]:
    """Run members, write, stop all; returns their state directories."""
    found: dict[str, Path] = {}

    async def scenario(homes: Homes) -> None:
        await homes.grow(*names)
        leader = await homes.leader()
        client = leader.client()
        await asyncio.gather(*(client.propose([create(thing(f"n{n}", size))]) for n in range(writes)))
        for home in homes.all.values():
            await settled(homes, home, writes)
        found.update({name: home.directory for name, home in homes.all.items()})

    run_homes(directory, scenario, **settings)
    return found


async def settled(homes: Homes, home: Home, version: int) -> None:
    replica = home.replica()
    async with asyncio.timeout(10):
        async for _ in replica.follow():
            if replica.version >= version:
                return


def thing(name: str, size: int) -> Node:
    return Node(id=NodeId(name), remote_addr="x" * size)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == ExitCode.OK
    return capsys.readouterr().out


def test_every_verb_reads_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = written(tmp_path, "a")["a"]
    before = contents(directory)
    where = ("--state-dir", str(directory))
    assert "not running" in shown(capsys, "status", *where)
    assert "add a at a:" in shown(capsys, "log", *where)
    assert "create node n29" in shown(capsys, "log", *where)
    assert "no snapshot yet" in shown(capsys, "snapshot", *where)
    assert shown(capsys, "verify", *where).startswith("whole: entries 1 to ")
    assert "--force-new-cluster" in shown(capsys, "recover", *where)
    assert contents(directory) == before


def test_the_standing_counts_what_a_snapshot_and_the_log_behind_it_hold(tmp_path: Path) -> None:
    directory = written(tmp_path, "a", writes=60, size=5000, snapshot_log_bytes=50_000)["a"]
    inspection = Inspection(directory)
    standing = inspection.standing()
    assert standing.snapshot_index > 1
    assert len(inspection.replay(standing.last_index).state) == 60
    newest = inspection.snapshots()[-1]
    assert newest.index == standing.snapshot_index
    assert 0 < newest.objects["node"] <= 60


def test_damage_is_named_and_the_exit_code_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = written(tmp_path, "a")["a"]
    segment = min((directory / "raft" / "log").glob("*.segment"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(bytes(data))
    assert main(("verify", "--state-dir", str(directory))) == ExitCode.STORE_DAMAGED
    assert f"{segment} is damaged" in capsys.readouterr().err


def test_a_torn_tail_is_told_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = written(tmp_path, "a")["a"]
    segment = max((directory / "raft" / "log").glob("*.segment"))
    segment.write_bytes(segment.read_bytes() + b"SBF1 torn")
    assert "torn" in shown(capsys, "verify", "--state-dir", str(directory))
    assert segment.read_bytes().endswith(b"SBF1 torn")


def test_recovery_points_at_the_most_advanced_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directories = written(tmp_path, "a", "b", "c")
    standing = Inspection(directories["b"]).standing()
    ahead = msgspec.structs.replace(standing, directory="/elsewhere", last_index=standing.last_index + 5)
    other = tmp_path / "other.json"
    other.write_bytes(msgspec.json.encode(ahead))
    alone = shown(capsys, "recover", "--state-dir", str(directories["a"]))
    assert "Only 1 of 3 managers were looked at" in alone
    told = shown(capsys, "recover", "--state-dir", str(directories["a"]), "--other", str(other))
    assert "Go on with /elsewhere, not with this one" in told
    assert "Only" not in told


def test_the_status_of_one_member_is_what_recover_takes_from_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = written(tmp_path, "a")["a"]
    printed = shown(capsys, "status", "--json", "--state-dir", str(directory))
    assert msgspec.json.decode(printed, type=Standing) == Inspection(directory).standing()


def test_a_node_that_was_never_a_manager_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("status", "--state-dir", str(tmp_path))) == ExitCode.LOCKED
    assert "holds no store" in capsys.readouterr().err


@pytest.mark.process
def test_supervisor_raft_runs_the_tool(tmp_path: Path) -> None:
    directory = written(tmp_path, "a")["a"]
    command = [sys.executable, "-P", "-m", "services.cli.supervisor", "raft", "verify", "--state-dir", str(directory)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("whole: entries 1 to ")
