"""The kernel's control groups: what limits a task, counts it, and ends all of it at once.

Each of ``cpu``, ``memory`` and ``pids`` is taken from the v2 tree where it is there and from its v1 tree otherwise; a controller found in
neither is reported as not enforced. A v2 tree without controllers still serves to kill. Groups are made below the group that taskd itself
is in, so that limits set around the whole product also hold for its tasks; taskd itself never is in a task's group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple, cast

from services.agent.taskd.records import TaskSpec

_TreeFields = tuple[str, int, list[str]]
LIMITS = ("cpu", "memory", "pids")
_PERIOD_US = 100_000
_QUOTA_US_MIN = 1_000
_BILLION = 1_000_000_000


class Tree(NamedTuple):
    """A mounted hierarchy in which we have a group of our own."""

    base: str
    """Our group; tasks get groups below it."""
    version: int
    controllers: frozenset[str]


class Mount(NamedTuple):
    """A hierarchy as it is mounted, and where we are in it."""

    path: str
    own: str
    """The directory of our own group, or the mount itself when that is not visible."""
    version: int
    controllers: frozenset[str]


class Group:
    """The groups of one task, one in each tree. A task keeps its groups when a later taskd would choose others."""

    def __init__(self, trees: tuple[Tree, ...], task_id: str, *, is_ours: bool = True) -> None:
        self._trees = trees
        self._paths = tuple((tree, f"{tree.base}/{task_id}") for tree in trees)
        self._is_ours = is_ours

    def to_json(self) -> list[object]:
        """Return what ``Cgroups.group_from_json`` needs to find the same groups."""
        return [[tree.base, tree.version, sorted(tree.controllers)] for tree in self._trees]

    @property
    def exists(self) -> bool:
        """True when the task's processes are counted by the kernel."""
        return bool(self._paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """Return the directories that the task's first process joins."""
        return tuple(path for _, path in self._paths)

    def make(self, spec: TaskSpec) -> None:
        """Make the groups and set the limits; raises OSError."""
        for tree, path in self._paths:
            os.makedirs(path, exist_ok=True)
            for name, value in _settings(tree, spec):
                _write(f"{path}/{name}", value)
            if tree.version == 1 and spec.memory_bytes and "memory" in tree.controllers:
                # Absent where the kernel does not count swap.
                with suppress(FileNotFoundError):
                    _write(f"{path}/memory.memsw.limit_in_bytes", str(spec.memory_bytes))

    def members(self) -> list[int]:
        """Return the pids of the task's processes."""
        pids: set[int] = set()
        for _, path in self._paths:
            with suppress(FileNotFoundError, OSError):
                pids.update(int(line) for line in _read(f"{path}/cgroup.procs").split())
        return sorted(pids)

    def kill(self) -> bool:
        """Kill everything in it if the kernel can do so in one step; False when the caller must kill the members."""
        for tree, path in self._paths:
            if tree.version == 2:
                with suppress(OSError):
                    _write(f"{path}/cgroup.kill", "1")
                    return True
        return False

    def freeze(self, frozen: bool) -> None:
        """Hold everything in it still, so that it can be killed without racing its forks, or let it go."""
        for tree, path in self._paths:
            if "freezer" in tree.controllers:
                with suppress(OSError):
                    _write(f"{path}/freezer.state", "FROZEN" if frozen else "THAWED")

    def oom_kills(self) -> int:
        """Return how many of its processes were killed for want of memory."""
        for tree, path in self._paths:
            if "memory" in tree.controllers:
                name = "memory.events" if tree.version == 2 else "memory.oom_control"
                with suppress(OSError):
                    return _keyed(f"{path}/{name}").get("oom_kill", 0)
        return 0

    def memory_bytes(self) -> int | None:
        """Return the memory in use, or None when nobody counts."""
        for tree, path in self._paths:
            if "memory" in tree.controllers:
                name = "memory.current" if tree.version == 2 else "memory.usage_in_bytes"
                with suppress(OSError):
                    return int(_read(f"{path}/{name}"))
        return None

    def cpu_seconds(self) -> float | None:
        """Return the processor time used since the start, or None when nobody counts."""
        for tree, path in self._paths:
            if tree.version == 2:
                with suppress(OSError):
                    return _keyed(f"{path}/cpu.stat").get("usage_usec", 0) / 1e6
        return None

    def remove(self) -> None:
        """Remove the groups; those that still hold a process stay."""
        for tree, path in self._paths:
            with suppress(OSError):
                os.rmdir(path)
            if not self._is_ours:
                with suppress(OSError):
                    os.rmdir(tree.base)


class Cgroups:
    """What this node's kernel and our rights on it allow."""

    def __init__(self, trees: tuple[Tree, ...]) -> None:
        self._trees = trees

    @classmethod
    def detect(cls, name: str, mounts: tuple[Mount, ...]) -> Cgroups:
        """Make our own group, called ``name``, in every tree that is of use; what cannot be made is left out."""
        trees: list[Tree] = []
        wanted = set(LIMITS)
        for mount in sorted(mounts, key=lambda mount: -mount.version):
            if mount.version == 2:
                tree = _make_v2(mount, name)
            elif mount.controllers & wanted or ("freezer" in mount.controllers and not _kills_at_once(trees)):
                tree = _make_v1(mount, name, mount.controllers & (wanted | {"freezer"}))
            else:
                tree = None
            if tree is not None:
                trees.append(tree)
                wanted -= tree.controllers
        return cls(tuple(trees))

    @property
    def unenforced(self) -> tuple[str, ...]:
        """Return the limits that no group enforces here."""
        enforced = frozenset[str]().union(*(tree.controllers for tree in self._trees))
        return tuple(limit for limit in LIMITS if limit not in enforced)

    @property
    def kill_by(self) -> str:
        """Return what ends all of a task: ``cgroup``, ``freezer`` or ``process-group``."""
        if _kills_at_once(self._trees):
            return "cgroup"
        return "freezer" if any("freezer" in tree.controllers for tree in self._trees) else "process-group"

    def group(self, task_id: str) -> Group:
        """Return the groups of a task, made or not."""
        return Group(self._trees, task_id)

    def group_from_json(self, value: object, task_id: str) -> Group:
        """Return the groups of a task that an earlier taskd made, which may have been somewhere else."""
        trees = tuple(
            Tree(base, version, frozenset(names)) for base, version, names in cast("list[_TreeFields]", value)
        )
        return Group(trees, task_id, is_ours=trees == self._trees)

    def remove(self) -> None:
        """Remove our own groups if no task is left in them, and what is left of tasks that took long to die."""
        for tree in self._trees:
            for folder, groups, _ in os.walk(tree.base, topdown=False):
                for group in groups:
                    with suppress(OSError):
                        os.rmdir(f"{folder}/{group}")
            with suppress(OSError):
                os.rmdir(tree.base)


def read_mounts(mountinfo: str, membership: str) -> tuple[Mount, ...]:
    """Read the control group mounts from the texts of ``/proc/self/mountinfo`` and ``/proc/self/cgroup``."""
    own: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, mount_point = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if kind == "cgroup2":
            mounts.append(Mount(mount_point, _visible(mount_point, root, own.get("", "/")), 2, frozenset()))
        elif kind == "cgroup":
            names = frozenset(options.split(","))
            key = next((key for key in own if key and frozenset(key.split(",")) <= names), None)
            if key is not None:
                path = _visible(mount_point, root, own[key])
                mounts.append(Mount(mount_point, path, 1, frozenset(key.split(","))))
    return tuple(mounts)


def _visible(mount_point: str, root: str, own: str) -> str:
    """Return where our own group is below a mount that may show only a part of its hierarchy."""
    inside = own[len(root) :] if root != "/" and own.startswith(root) else own
    path = f"{mount_point}/{inside.strip('/')}".rstrip("/")
    return path if os.path.isdir(path) else mount_point


def _make_v1(mount: Mount, name: str, controllers: frozenset[str]) -> Tree | None:
    base = f"{mount.own}/{name}"
    try:
        os.makedirs(base, exist_ok=True)
        usable = os.access(f"{base}/cgroup.procs", os.W_OK)
    except OSError:
        return None
    return Tree(base, 1, controllers) if usable else None


def _make_v2(mount: Mount, name: str) -> Tree | None:
    """Make our group in the nearest group at or above our own that hands its controllers down.

    A group with processes in it may not, except the root; so this is usually the parent of the one we are in.
    """
    fallback: Tree | None = None
    for parent in _upwards(mount.own, mount.path):
        available = _controllers(parent, "cgroup.controllers") & set(LIMITS)
        for controller in sorted(available - _controllers(parent, "cgroup.subtree_control")):
            with suppress(OSError):
                _write(f"{parent}/cgroup.subtree_control", f"+{controller}")
        base = f"{parent}/{name}"
        try:
            os.makedirs(base, exist_ok=True)
            if not os.access(f"{base}/cgroup.procs", os.W_OK):
                continue
            handed_down = _controllers(base, "cgroup.controllers") & set(LIMITS)
            for controller in sorted(handed_down - _controllers(base, "cgroup.subtree_control")):
                with suppress(OSError):
                    _write(f"{base}/cgroup.subtree_control", f"+{controller}")
        except OSError:
            continue
        tree = Tree(base, 2, _controllers(base, "cgroup.subtree_control") & set(LIMITS))
        if tree.controllers or not available:
            if fallback is not None:
                with suppress(OSError):
                    os.rmdir(fallback.base)
            return tree
        fallback = fallback or tree
    return fallback


def _upwards(path: str, top: str) -> Iterator[str]:
    while True:
        yield path
        if path == top:
            return
        path = os.path.dirname(path)


def _controllers(path: str, name: str) -> frozenset[str]:
    try:
        return frozenset(_read(f"{path}/{name}").split())
    except OSError:
        return frozenset()


def _kills_at_once(trees: tuple[Tree, ...] | list[Tree]) -> bool:
    return any(tree.version == 2 for tree in trees)


def _settings(tree: Tree, spec: TaskSpec) -> Iterator[tuple[str, str]]:
    """Name the files to write for a task's limits, in the order in which the kernel takes them."""
    quota = max(spec.nano_cpus * _PERIOD_US // _BILLION, _QUOTA_US_MIN)
    v2 = tree.version == 2
    if spec.nano_cpus and "cpu" in tree.controllers:
        if v2:
            yield "cpu.max", f"{quota} {_PERIOD_US}"
        else:
            yield "cpu.cfs_period_us", str(_PERIOD_US)
            yield "cpu.cfs_quota_us", str(quota)
    if spec.memory_bytes and "memory" in tree.controllers:
        yield "memory.max" if v2 else "memory.limit_in_bytes", str(spec.memory_bytes)
        if v2:
            yield "memory.swap.max", "0"
            # One process of a task killed for want of memory leaves a half-dead task: end all of it.
            yield "memory.oom.group", "1"
    if spec.pids and "pids" in tree.controllers:
        yield "pids.max", str(spec.pids)


def _keyed(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
