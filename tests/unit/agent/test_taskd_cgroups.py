"""Control groups on machines that this one is not: trees of plain files stand in for the kernel's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.agent.taskd.cgroups import Cgroups, Mount, read_mounts
from services.agent.taskd.records import TaskSpec

SPEC = TaskSpec("task", ("true",), memory_bytes=64 << 20, nano_cpus=1_500_000_000, pids=20)


@pytest.fixture(autouse=True)
def own_files_are_writable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up tree has no ``cgroup.procs`` in a new group; the kernel would put one there."""
    monkeypatch.setattr("services.agent.taskd.cgroups.os.access", lambda path, mode: True)


def make_v2(root: Path, *, controllers: str) -> Mount:
    root.mkdir(parents=True)
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text(controllers)
    group = root / "swarmbus-test"
    group.mkdir()
    (group / "cgroup.controllers").write_text(controllers)
    (group / "cgroup.subtree_control").write_text(controllers)
    return Mount(str(root), str(root), 2, frozenset())


def make_v1(root: Path, controller: str) -> Mount:
    (root / controller).mkdir(parents=True)
    return Mount(str(root / controller), str(root / controller), 1, frozenset({controller}))


def contents(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


def test_all_limits_go_to_v2_where_it_has_the_controllers(tmp_path: Path) -> None:
    mounts = (make_v2(tmp_path / "v2", controllers="cpu memory pids"), make_v1(tmp_path, "memory"))
    cgroups = Cgroups.detect("swarmbus-test", mounts)
    assert (cgroups.unenforced, cgroups.kill_by) == ((), "cgroup")
    group = cgroups.group("task")
    group.make(SPEC)
    assert group.paths == (str(tmp_path / "v2/swarmbus-test/task"),)
    assert contents(Path(group.paths[0])) == {
        "cpu.max": "150000 100000",
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "20",
    }


def test_a_hybrid_machine_limits_by_v1_and_kills_by_v2(tmp_path: Path) -> None:
    v1 = tuple(make_v1(tmp_path, name) for name in ("cpu", "memory", "pids", "freezer", "blkio"))
    cgroups = Cgroups.detect("swarmbus-test", (*v1, make_v2(tmp_path / "v2", controllers="")))
    assert (cgroups.unenforced, cgroups.kill_by) == ((), "cgroup")
    group = cgroups.group("task")
    group.make(SPEC)
    assert {path.removeprefix(str(tmp_path)).split("/")[1] for path in group.paths} == {"v2", "cpu", "memory", "pids"}
    assert contents(tmp_path / "cpu/swarmbus-test/task") == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "150000",
    }
    assert contents(tmp_path / "memory/swarmbus-test/task") == {
        "memory.limit_in_bytes": str(64 << 20),
        "memory.memsw.limit_in_bytes": str(64 << 20),
    }


def test_without_v2_the_freezer_holds_what_is_killed_and_what_is_missing_is_told(tmp_path: Path) -> None:
    cgroups = Cgroups.detect("swarmbus-test", (make_v1(tmp_path, "memory"), make_v1(tmp_path, "freezer")))
    assert (cgroups.unenforced, cgroups.kill_by) == (("cpu", "pids"), "freezer")


def test_without_any_group_everything_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cgroups = Cgroups.detect("swarmbus-test", (Mount(str(blocked), str(blocked), 1, frozenset({"memory"})),))
    assert (cgroups.unenforced, cgroups.kill_by) == (("cpu", "memory", "pids"), "process-group")
    assert not cgroups.group("task").exists


def test_controllers_that_are_not_handed_down_are_sought_further_up(tmp_path: Path) -> None:
    top = tmp_path / "v2"
    make_v2(top, controllers="cpu memory")
    inner = top / "session"
    inner.mkdir()
    (inner / "cgroup.controllers").write_text("cpu memory")
    # The kernel refuses this file in a group that has processes in it.
    (inner / "cgroup.subtree_control").mkdir()
    cgroups = Cgroups.detect("swarmbus-test", (Mount(str(top), str(inner), 2, frozenset()),))
    assert cgroups.unenforced == ("pids",)
    assert cgroups.group("t").paths == (str(top / "swarmbus-test/t"),)
    assert not (inner / "swarmbus-test").exists()


def test_a_task_keeps_its_groups_under_a_taskd_that_would_choose_others(tmp_path: Path) -> None:
    before = Cgroups.detect("swarmbus-test", (make_v1(tmp_path, "memory"),))
    mount = str(tmp_path / "memory")
    (tmp_path / "memory" / "elsewhere").mkdir()
    after = Cgroups.detect("swarmbus-test", (Mount(mount, f"{mount}/elsewhere", 1, frozenset({"memory"})),))
    made = before.group("task")
    made.make(TaskSpec("task", ("true",)))
    found = after.group_from_json(json.loads(json.dumps(made.to_json())), "task")
    assert found.paths == made.paths != after.group("task").paths
    found.remove()
    assert not (tmp_path / "memory" / "swarmbus-test").exists(), "nobody else would remove it"


def test_no_limit_writes_no_file(tmp_path: Path) -> None:
    cgroups = Cgroups.detect("swarmbus-test", (make_v2(tmp_path / "v2", controllers="cpu memory pids"),))
    group = cgroups.group("task")
    group.make(TaskSpec("task", ("true",)))
    assert contents(Path(group.paths[0])) == {}


def test_a_kill_for_want_of_memory_is_read_from_either_version(tmp_path: Path) -> None:
    for number, (mount, name) in enumerate(
        (
            (make_v2(tmp_path / "v2", controllers="memory"), "memory.events"),
            (make_v1(tmp_path, "memory"), "memory.oom_control"),
        )
    ):
        group = Cgroups.detect("swarmbus-test", (mount,)).group(f"t{number}")
        group.make(SPEC)
        assert group.oom_kills() == 0
        (Path(group.paths[0]) / name).write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
        assert group.oom_kills() == 2


def test_mounts_are_found_by_name_and_our_place_in_them(tmp_path: Path) -> None:
    memory = tmp_path / "memory" / "outer" / "inner"
    memory.mkdir(parents=True)
    mountinfo = (
        f"30 20 0:1 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
        f"31 20 0:2 /docker/abc {tmp_path}/cpu rw shared:1 - cgroup cgroup rw,cpu,cpuacct\n"
        f"32 20 0:3 / {tmp_path}/unified rw - cgroup2 none rw\n"
        "33 20 0:4 / /proc rw - proc proc rw\n"
        f"34 20 0:5 / {tmp_path}/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    )
    membership = "9:memory:/outer/inner\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/gone\n"
    found = {mount.path.rpartition("/")[2]: mount for mount in read_mounts(mountinfo, membership)}
    assert found["memory"] == Mount(f"{tmp_path}/memory", str(memory), 1, frozenset({"memory"}))
    assert found["cpu"].controllers == {"cpu", "cpuacct"}
    assert found["cpu"].own == f"{tmp_path}/cpu"
    assert found["unified"] == Mount(f"{tmp_path}/unified", f"{tmp_path}/unified", 2, frozenset())
    assert "proc" not in found
