"""One task in taskd's hands: from its directory and its process to its exit record.

    running → ending (its process is gone, what it left behind is being killed) → ended (exit record written, pipes drained)

The directory ``<tasks>/<id>`` holds all that a new taskd needs to go on: ``spec.json``, ``pid.json`` (written right after the start),
the pipes, the log, and ``exit.json`` once it has ended. A directory without ``pid.json`` is a start that nobody was told of.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from services.agent.taskd.cgroups import Cgroups
from services.agent.taskd.files import remove_tree
from services.agent.taskd.launch import Launcher
from services.agent.taskd.logs import STDERR, STDOUT, LogWriter
from services.agent.taskd.loop import READ, Loop, Timer
from services.agent.taskd.processes import (
    boot_id,
    exit_of_stranger,
    members,
    processor_seconds,
    read_stat,
    reap,
    resident_bytes,
)
from services.agent.taskd.records import (
    Exit,
    Json,
    TaskInfo,
    TaskSpec,
    Usage,
    exit_from_json,
    read_object,
    spec_to_json,
)

_PIPES = ((STDOUT, "stdout.fifo"), (STDERR, "stderr.fifo"))
_PIPE_BYTES = 256 << 10
_PIECES_PER_ROUND = 16
_SWEEP_FIRST_S = 0.002
_SWEEP_LAST_S = 0.25
_SWEEP_LIMIT_S = 10.0
"""Give up on leftovers that do not die, which only a hung device can do; ``remove`` tries again."""


class Host:
    """What all tasks of a taskd share."""

    def __init__(self, loop: Loop, cgroups: Cgroups, launcher: Launcher, log: Callable[..., None]) -> None:
        self.loop = loop
        self.cgroups = cgroups
        self.launcher = launcher
        self.log = log
        self.boot = boot_id()
        self.is_root = os.geteuid() == 0


class Task:
    """A task that was started, now or by a taskd before this one."""

    def __init__(self, host: Host, directory: str, spec: TaskSpec) -> None:
        self.spec = spec
        self.directory = directory
        self.pid = 0
        self.started_at = 0.0
        self.exit: Exit | None = None
        self.is_recorded = False
        """Its end is on disk; otherwise a successor must be told."""
        self.kill_at: float | None = None
        self.on_end: list[Callable[[Task], None]] = []
        self.on_log: list[Callable[[], None]] = []
        self._host = host
        self._group = host.cgroups.group(spec.id)
        self._start_time = 0
        self._session = 0
        self._dropped_bytes = 0
        self._pidfd = -1
        self._is_child = True
        self._outcome: Exit | None = None
        self._log: LogWriter | None = None
        self._pipes: dict[int, int] = {}
        self._kill_timer: Timer | None = None
        self._sweep_delay_s = _SWEEP_FIRST_S
        self._sweep_until = 0.0

    # -- seen from outside --------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """True once the exit record is written."""
        return self.exit is not None

    @property
    def info(self) -> TaskInfo:
        """Return what is known of it."""
        dropped = self._log.dropped_bytes if self._log is not None else self._dropped_bytes
        return TaskInfo(self.spec.id, self.pid, self.started_at, self.exit, dropped)

    def log_place(self) -> tuple[int, int]:
        """Return segment and number of records of its log; (0, 0) when it has ended."""
        return (self._log.segment, self._log.records) if self._log is not None else (0, 0)

    def usage(self) -> Usage:
        """Measure what it uses now."""
        pids = self._members()
        memory = self._group.memory_bytes()
        cpu = self._group.cpu_seconds()
        return Usage(
            sum(map(processor_seconds, pids)) if cpu is None else cpu,
            sum(map(resident_bytes, pids)) if memory is None else memory,
            len(pids),
        )

    # -- coming to life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the directory and start the process; raises OSError and then leaves nothing."""
        os.mkdir(self.directory, 0o700)
        try:
            self._write("spec.json", spec_to_json(self.spec))
            self._group.make(self.spec)
            for _, name in _PIPES:
                os.mkfifo(f"{self.directory}/{name}", 0o600)
                if self.spec.user is not None and self._host.is_root:
                    # So that the task may open /dev/stdout.
                    os.chown(f"{self.directory}/{name}", self.spec.user.uid, self.spec.user.gid)
            self._open_output({})
            stdout, stderr = (f"{self.directory}/{name}" for _, name in _PIPES)
            self.pid = self._host.launcher.start(
                self.spec, self._group.paths, stdout, stderr, rlimits="memory" in self._host.cgroups.unenforced
            )
            self._write_birth()
            self._watch(os.pidfd_open(self.pid))
        except OSError:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
                self._kill_members()
            self._close_output()
            self.delete()
            raise

    def _write_birth(self) -> None:
        stat = read_stat(self.pid)
        assert stat is not None, "a child stays until it is reaped"
        self._start_time = stat.start_time
        self.started_at = time.time()
        self._write(
            "pid.json",
            {
                "pid": self.pid,
                "start_time": stat.start_time,
                "boot": self._host.boot,
                "started_at": self.started_at,
                "groups": self._group.to_json(),
            },
        )

    @classmethod
    def load(cls, host: Host, directory: str, spec: TaskSpec, inherited: Json) -> Task | None:
        """Take over what a directory tells of; None when the task never got as far as to be reported.

        ``inherited`` is what ``hand_over`` of the same process returned before it became this program.
        """
        task = cls(host, directory, spec)
        with suppress(FileNotFoundError):
            task.exit = exit_from_json(task._read("exit.json"))
            task.is_recorded = True
        try:
            born = task._read("pid.json")
        except FileNotFoundError:
            born = {}
        if born:
            task.pid, task._start_time = int(str(born["pid"])), int(str(born["start_time"]))
            task.started_at = float(str(born["started_at"]))
            task._group = host.cgroups.group_from_json(born["groups"], spec.id)
        elif not task.ended:
            task._kill_members()
            task.delete()
            return None
        if not task.ended:
            task._take_over(inherited, same_boot=born["boot"] == host.boot)
        return task

    def hand_over(self) -> Json:
        """Make its descriptors survive an exec and return what ``load`` needs."""
        descriptors = {"pidfd": self._pidfd, **{str(stream): pipe for stream, pipe in self._pipes.items()}}
        for descriptor in descriptors.values():
            if descriptor >= 0:
                os.set_inheritable(descriptor, True)
        outcome = None if self._outcome is None else self._outcome._asdict()
        return {**descriptors, "kill_at": self.kill_at, "child": self._is_child, "outcome": outcome}

    def _take_over(self, inherited: Json, *, same_boot: bool) -> None:
        self._open_output(
            {stream: int(str(inherited[str(stream)])) for stream, _ in _PIPES if str(stream) in inherited}
        )
        if inherited.get("outcome") is not None:
            # Its process had ended, and what it left was being killed.
            self._ending(exit_from_json(inherited["outcome"]))
            return
        self._is_child = bool(inherited.get("child", False))
        kill_at = inherited.get("kill_at")
        if isinstance(kill_at, float):
            self._kill_later(kill_at)
        pidfd = int(str(inherited["pidfd"])) if inherited else self._find(same_boot=same_boot)
        if pidfd >= 0:
            os.set_inheritable(pidfd, False)
            self._watch(pidfd)
            return
        reason = "it ended while nobody held it" if same_boot else "the machine was restarted"
        self._ending(Exit(at=time.time(), message=f"task: {reason}, and how it ended is not known"))

    def _find(self, *, same_boot: bool) -> int:
        """Return a pidfd of our process, or -1 when it is gone."""
        if not same_boot:
            return -1
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return -1
        # Looked at after opening: had the pid been used again in between, the start time would differ.
        stat = read_stat(self.pid)
        if stat is not None and stat.start_time == self._start_time:
            return pidfd
        os.close(pidfd)
        return -1

    # -- being told ---------------------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send a signal to its main process; nothing happens when it has ended."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def stop(self, number: int, grace_s: float) -> None:
        """Ask it to end, and kill it after the grace; a second call can only shorten the grace."""
        if self._outcome is not None or self.ended:
            return
        when = self._host.loop.now() + grace_s
        if self.kill_at is None:
            self.signal(number or self.spec.stop_signal)
        if self.kill_at is None or when < self.kill_at:
            self._kill_later(when)

    def kill(self) -> None:
        """Kill everything in it."""
        if not self.ended:
            self._kill_members()
            self.signal(signal.SIGKILL)

    def check(self) -> None:
        """Look whether its process has ended, and take note if so."""
        if self._pidfd < 0:
            return
        now = time.time()
        outcome: Exit | None
        try:
            outcome = (
                reap(self.pid, now)
                if self._is_child
                else exit_of_stranger(self.pid, self._start_time, self._pidfd, now)
            )
        except ChildProcessError:
            self._is_child = False
            outcome = exit_of_stranger(self.pid, self._start_time, self._pidfd, now)
        if outcome is not None:
            self._ending(outcome)

    def delete(self) -> None:
        """Remove its directory, groups and scratch; only when no process of it is left."""
        self._group.remove()
        for path in (*self.spec.scratch, self.directory):
            remove_tree(path)

    # -- ending -------------------------------------------------------------------------------------------------------

    def _ending(self, outcome: Exit) -> None:
        """The main process is gone: kill what it left, and finish when that is gone too."""
        if self._pidfd >= 0:
            self._host.loop.forget(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._outcome = outcome
        self._sweep_until = self._host.loop.now() + _SWEEP_LIMIT_S
        self._sweep()

    def _sweep(self) -> None:
        left = self._kill_members()
        now = self._host.loop.now()
        if not left or now >= self._sweep_until:
            if left:
                self._host.log("warning", "leftovers-survive", task=self.spec.id, pids=",".join(map(str, left)))
            self._finish()
            return
        self._host.loop.call_at(now + self._sweep_delay_s, self._sweep)
        self._sweep_delay_s = min(2 * self._sweep_delay_s, _SWEEP_LAST_S)

    def _finish(self) -> None:
        assert self._outcome is not None, "a task ends with an outcome"
        for stream in list(self._pipes):
            while self._move(stream):
                pass
        self._close_output()
        self.exit = self._outcome._replace(oom=self._group.oom_kills() > 0)
        try:
            self._write("exit.json", self.exit._asdict())
            self.is_recorded = True
        except OSError as error:
            # A full disk. The record is kept in memory, and lost only if taskd is killed as well.
            self._host.log("error", "exit-record-not-written", task=self.spec.id, error=error)
        for _, name in _PIPES:
            with suppress(FileNotFoundError):
                os.unlink(f"{self.directory}/{name}")
        self._group.remove()
        if self._dropped_bytes:
            self._host.log("warning", "output-dropped", task=self.spec.id, bytes=self._dropped_bytes)
        self._tell_readers()
        waiting, self.on_end = self.on_end, []
        for call in waiting:
            call(self)

    def _kill_members(self) -> list[int]:
        """Kill every process of the task and return those that were still there."""
        pids = self._members()
        if not pids or self._group.kill():
            return pids
        self._group.freeze(True)
        for pid in set(pids) | set(self._members()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._group.freeze(False)
        return pids

    def _members(self) -> list[int]:
        return self._group.members() if self._group.exists else members(self.spec.id, self._session)

    def _kill_later(self, when: float) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self.kill_at = when
        self._kill_timer = self._host.loop.call_at(when, self.kill)

    # -- output -------------------------------------------------------------------------------------------------------

    def _open_output(self, inherited: dict[int, int]) -> None:
        self._log = LogWriter(self.directory, bytes_max=self.spec.log_bytes_max, files_max=self.spec.log_files_max)
        for stream, name in _PIPES:
            if stream in inherited:
                pipe = inherited[stream]
                os.set_inheritable(pipe, False)
            elif os.path.exists(f"{self.directory}/{name}"):
                pipe = os.open(f"{self.directory}/{name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            else:
                # It had ended, and been drained, before its end could be written down.
                continue
            if self._host.is_root:
                # What fits in here is what a task can write unhindered while taskd is away. Others have a common bound for all pipes.
                with suppress(OSError):
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            self._pipes[stream] = pipe
            self._host.loop.watch(pipe, READ, lambda _, stream=stream: self._on_output(stream))  # type: ignore[misc]

    def _on_output(self, stream: int) -> None:
        for _ in range(_PIECES_PER_ROUND):
            if not self._move(stream):
                break
        self._tell_readers()

    def _move(self, stream: int) -> int:
        assert self._log is not None, "pipes are open while the log is"
        return self._log.move(self._pipes[stream], stream, time.time())

    def _tell_readers(self) -> None:
        waiting, self.on_log = self.on_log, []
        for call in waiting:
            call()

    def _close_output(self) -> None:
        for pipe in self._pipes.values():
            self._host.loop.forget(pipe)
            os.close(pipe)
        self._pipes.clear()
        if self._log is not None:
            self._dropped_bytes = self._log.dropped_bytes
            self._log.close()
            self._log = None

    # -- files --------------------------------------------------------------------------------------------------------

    def _watch(self, pidfd: int) -> None:
        self._pidfd = pidfd
        # taskd makes every task the leader of its session, and we hold it: the number is the task's.
        self._session = self.pid
        self._host.loop.watch(pidfd, select.EPOLLIN, lambda _: self.check())

    def _write(self, name: str, value: Json) -> None:
        temporary = f"{self.directory}/.tmp-{name}"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(value, file)
        os.replace(temporary, f"{self.directory}/{name}")

    def _read(self, name: str) -> Json:
        with open(f"{self.directory}/{name}") as file:
            return read_object(file.read())
