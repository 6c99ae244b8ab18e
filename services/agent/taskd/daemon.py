"""taskd itself: answers requests, keeps the tasks, takes over the tasks of the taskd before it, becomes its successor in place.

It never ends by itself while a task lives. It ends when told to, or when no task has lived and nobody has been connected for a while.
"""

from __future__ import annotations

import binascii
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from services.agent.taskd.build import build_number
from services.agent.taskd.cgroups import Cgroups, Mount, read_mounts
from services.agent.taskd.files import remove_tree
from services.agent.taskd.launch import Launcher
from services.agent.taskd.loop import Loop, Timer
from services.agent.taskd.processes import become_subreaper
from services.agent.taskd.records import BadRecord, Json, Version, check_id, info_to_json, read_object, spec_from_json
from services.agent.taskd.server import Connection, Server
from services.agent.taskd.task import Host, Task
from services.agent.taskd.wire import BUSY, FAILED, INVALID, LIST_MAX, NOT_FOUND, PROTOCOL

IDLE_EXIT_S = 60.0


class Settings(NamedTuple):
    """The command line, ``--name=value`` each; argparse would double the memory."""

    tasks_dir: str
    socket: str
    idle_exit_s: float = IDLE_EXIT_S
    """End after so long without a task and without a client."""
    ready_fd: int = -1
    """Written to and closed once the socket listens."""
    resume_fd: int = -1
    """Holds what the program before this one, in the same process, handed over."""


class NoSuchTask(Exception):
    """A request for a task that taskd does not have."""


def main(argv: list[str]) -> int:
    """Run until the end; return the exit code."""
    settings = _parse(argv[1:])
    os.umask(0o022)
    os.chdir("/")
    if settings.resume_fd < 0:
        _close_strange_descriptors(settings.ready_fd)
    inherited = _read_inheritance(settings.resume_fd)
    lock = _inherit(inherited["lock"]) if inherited else _lock(f"{settings.tasks_dir}/.lock")
    if lock < 0:
        log("info", "another-one-runs", tasks_dir=settings.tasks_dir)
        return 0
    become_subreaper()
    daemon = Daemon(settings, argv, lock, inherited)
    if settings.ready_fd >= 0:
        # Whoever started us may have gone.
        with suppress(BrokenPipeError):
            os.write(settings.ready_fd, b"1")
        os.close(settings.ready_fd)
    daemon.run()
    return 0


def log(level: str, event: str, **fields: object) -> None:
    """Write one line to standard error."""
    now = time.time()
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    text = "".join(f" {name}={value}" for name, value in fields.items())
    sys.stderr.write(f"{moment}.{int(now % 1 * 1000):03}Z {level.upper():<8} taskd - {event}{text}\n")
    sys.stderr.flush()


class Daemon:
    """Everything together."""

    def __init__(self, settings: Settings, argv: list[str], lock: int, inherited: Json) -> None:
        self._settings = settings
        self._argv = argv
        self._lock = lock
        self._build = build_number()
        self._loop = Loop()
        self._tasks: dict[str, Task] = {}
        self._quit_when_empty = False
        self._idle: Timer | None = None
        self._successor: tuple[str, str] | None = None
        # Named for the directory, so that several nodes can share a machine and a successor finds the same groups.
        name = f"swarmbus-{binascii.crc32(os.path.realpath(settings.tasks_dir).encode()):08x}"
        self._cgroups = Cgroups.detect(name, _mounts())
        self._launcher = Launcher(_part(inherited, "launcher"))
        self._host = Host(self._loop, self._cgroups, self._launcher, log)
        listener = socket.socket(fileno=_inherit(inherited["listener"])) if inherited else Server.bind(settings.socket)
        self._server = Server(self._loop, listener, self._on_request, self._consider_end)
        self._loop.on_signal(signal.SIGTERM, self._on_terminate)
        self._loop.on_signal(signal.SIGCHLD, self._on_children)
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._operations: dict[str, Callable[[Connection, Json], Json | None]] = {
            "version": self._version,
            "start": self._start,
            "inspect": lambda _, request: info_to_json(self._task(request).info),
            "list": self._list,
            "wait": self._wait,
            "signal": self._signal,
            "stop": self._stop,
            "kill": self._kill,
            "remove": self._remove,
            "await_log": self._await_log,
            "stats": lambda _, request: self._task(request).usage()._asdict(),
            "subscribe": self._subscribe,
            "reexec": self._reexec,
            "quit": self._quit,
            "quit_when_empty": self._on_quit_when_empty,
            "stop_all": self._stop_all,
        }
        self._load(_part(inherited, "tasks"))
        self._on_children()
        log("info", "ready", tasks=len(self._tasks), living=self._living(), resumed=bool(inherited))

    def run(self) -> None:
        """Serve until the end, or become the successor."""
        self._consider_end()
        self._loop.run()
        self._server.flush()
        if self._successor is not None:
            self._become(*self._successor)
        with suppress(FileNotFoundError):
            os.unlink(self._settings.socket)
        self._cgroups.remove()
        log("info", "end")

    # -- requests -----------------------------------------------------------------------------------------------------

    def _on_request(self, connection: Connection, request: Json) -> None:
        seq = request.get("seq")
        operation = self._operations.get(str(request.get("op")))
        if operation is None:
            connection.refuse(seq, INVALID, f"no operation {request.get('op')!r}")
            return
        try:
            result = operation(connection, request)
        except NoSuchTask as error:
            connection.refuse(seq, NOT_FOUND, f"no task {error}")
        except (BadRecord, KeyError, TypeError, ValueError) as error:
            connection.refuse(seq, INVALID, f"{type(error).__name__}: {error}")
        except OSError as error:
            log("warning", "refused", op=request.get("op"), error=error)
            connection.refuse(seq, FAILED, str(error))
        else:
            if result is not None:
                connection.answer(seq, result)

    def _task(self, request: Json) -> Task:
        task = self._tasks.get(check_id(request.get("id")))
        if task is None:
            raise NoSuchTask(request.get("id"))
        return task

    def _version(self, _: Connection, _request: Json) -> Json:
        # Whoever asks is about to use us.
        self._quit_when_empty = False
        return Version(
            PROTOCOL,
            self._build,
            os.getpid(),
            self._settings.tasks_dir,
            self._cgroups.kill_by,
            self._cgroups.unenforced,
        )._asdict()

    def _start(self, _: Connection, request: Json) -> Json:
        spec = spec_from_json(request.get("spec"))
        task = self._tasks.get(spec.id)
        if task is None:
            task = Task(self._host, f"{self._settings.tasks_dir}/{spec.id}", spec)
            task.start()
            task.on_end.append(self._ended)
            self._tasks[spec.id] = task
        return info_to_json(task.info)

    def _list(self, _: Connection, request: Json) -> Json:
        after = str(request.get("after", ""))
        chosen = sorted(task_id for task_id in self._tasks if task_id > after)
        tasks = [info_to_json(self._tasks[task_id].info) for task_id in chosen[:LIST_MAX]]
        return {"tasks": tasks, "more": len(chosen) > LIST_MAX}

    def _wait(self, connection: Connection, request: Json) -> Json | None:
        return self._answer_at_end(self._task(request), connection, request)

    def _signal(self, _: Connection, request: Json) -> Json:
        self._task(request).signal(_number(request, "number"))
        return {}

    def _stop(self, connection: Connection, request: Json) -> Json | None:
        task = self._task(request)
        task.stop(_number(request, "number"), _seconds(request, "grace_s"))
        return self._answer_at_end(task, connection, request)

    def _kill(self, connection: Connection, request: Json) -> Json | None:
        task = self._task(request)
        task.kill()
        return self._answer_at_end(task, connection, request)

    def _remove(self, connection: Connection, request: Json) -> Json | None:
        task = self._task(request)

        def remove(ended: Task) -> None:
            if self._tasks.get(ended.spec.id) is ended:
                del self._tasks[ended.spec.id]
                ended.delete()
            connection.answer(request.get("seq"), {})

        if task.ended:
            remove(task)
        else:
            task.on_end.append(remove)
            task.kill()
        return None

    def _answer_at_end(self, task: Task, connection: Connection, request: Json) -> Json | None:
        if task.ended:
            return info_to_json(task.info)
        task.on_end.append(lambda ended: connection.answer(request.get("seq"), info_to_json(ended.info)))
        return None

    def _await_log(self, connection: Connection, request: Json) -> Json | None:
        task = self._task(request)
        place = (_number(request, "segment"), _number(request, "records"))
        if task.ended or task.log_place() > place:
            return {"ended": task.ended}
        task.on_log.append(lambda: connection.answer(request.get("seq"), {"ended": task.ended}))
        return None

    def _subscribe(self, connection: Connection, _: Json) -> Json:
        connection.subscribed = True
        return {}

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _living(self) -> int:
        return sum(not task.ended for task in self._tasks.values())

    def _ended(self, task: Task) -> None:
        self._server.broadcast({"event": "exit", "task": info_to_json(task.info)})
        self._consider_end()

    def _consider_end(self) -> None:
        """End if it was asked for and can be, or look again after a while of idleness."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._living():
            return
        if self._quit_when_empty:
            self._loop.stop()
        elif not self._server.connections:
            self._idle = self._loop.call_at(self._loop.now() + self._settings.idle_exit_s, self._on_idle)

    def _on_idle(self) -> None:
        if not self._living() and not self._server.connections:
            self._loop.stop()

    def _on_terminate(self) -> None:
        log("info", "terminate", living=self._living())
        self._quit_when_empty = True
        self._consider_end()

    def _on_quit_when_empty(self, connection: Connection, request: Json) -> None:
        connection.answer(request.get("seq"), {})
        self._quit_when_empty = True
        self._consider_end()

    def _quit(self, connection: Connection, request: Json) -> None:
        living = self._living()
        if living:
            connection.refuse(request.get("seq"), BUSY, f"{living} tasks live")
            return
        connection.answer(request.get("seq"), {})
        self._loop.stop()

    def _stop_all(self, connection: Connection, request: Json) -> None:
        grace_s = _seconds(request, "grace_s")

        def finish(_: Task | None = None) -> None:
            if self._living():
                return
            for task in self._tasks.values():
                task.delete()
            self._tasks.clear()
            connection.answer(request.get("seq"), {})
            self._loop.stop()

        for task in list(self._tasks.values()):
            if not task.ended:
                task.on_end.append(finish)
                task.stop(0, grace_s)
        finish()

    def _on_children(self) -> None:
        """Reap: tasks learn of their end, orphans that came to us are just buried."""
        by_pid = {task.pid: task for task in self._tasks.values() if not task.ended}
        with suppress(ChildProcessError):
            while True:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is None:
                    return
                task = by_pid.pop(found.si_pid, None)
                if task is not None:
                    task.check()
                else:
                    os.waitpid(found.si_pid, os.WNOHANG)

    # -- taking over --------------------------------------------------------------------------------------------------

    def _load(self, inherited: Json) -> None:
        for name in sorted(os.listdir(self._settings.tasks_dir)):
            directory = f"{self._settings.tasks_dir}/{name}"
            if name.startswith(".") or not os.path.isdir(directory):
                continue
            try:
                task = self._load_one(name, directory, _part(inherited, name))
            except BadRecord as error:
                log("error", "damaged-task", directory=directory, error=error)
                continue
            if task is not None:
                self._tasks[name] = task
                if not task.ended:
                    task.on_end.append(self._ended)

    def _load_one(self, name: str, directory: str, inherited: Json) -> Task | None:
        try:
            with open(f"{directory}/spec.json") as file:
                spec = spec_from_json(read_object(file.read()))
        except FileNotFoundError:
            # The start got no further than the directory: a spec is written before anything else is made.
            remove_tree(directory)
            return None
        return Task.load(self._host, directory, spec, inherited)

    def _reexec(self, connection: Connection, request: Json) -> None:
        self._successor = (str(request["executable"]), str(request["main"]))
        connection.answer(request.get("seq"), {})
        self._loop.stop()

    def _become(self, executable: str, main_file: str) -> None:
        """Run a newer program in this process: our children stay our children, no descriptor of a task is ever closed."""
        state = {
            "lock": self._lock,
            "listener": self._server.listener.fileno(),
            "launcher": self._launcher.hand_over(),
            "tasks": {task_id: task.hand_over() for task_id, task in self._tasks.items() if not task.is_recorded},
        }
        os.set_inheritable(self._lock, True)
        os.set_inheritable(self._server.listener.fileno(), True)
        handover = os.memfd_create("taskd-handover", 0)
        os.write(handover, json.dumps(state).encode())
        kept = [argument for argument in self._argv[1:] if not argument.startswith(("--ready-fd=", "--resume-fd="))]
        log("info", "reexec", main=main_file)
        # A signal between the two programs must not end what both are made to keep.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.execv(  # noqa: S606 - no shell: the arguments are ours
            executable,
            [executable, "-I", "-S", "-E", main_file, *kept, f"--resume-fd={handover}"],
        )


def _parse(arguments: list[str]) -> Settings:
    given: dict[str, str] = {}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        given[name.replace("-", "_")] = value
    return Settings(
        given["tasks_dir"],
        given["socket"],
        float(given.get("idle_exit_s", IDLE_EXIT_S)),
        int(given.get("ready_fd", -1)),
        int(given.get("resume_fd", -1)),
    )


def _close_strange_descriptors(kept: int) -> None:
    """Close what our starter left open by accident: we and our tasks would hold it for days."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor != kept:
            # One of them was the listing itself.
            with suppress(OSError):
                os.close(descriptor)
    if kept >= 0:
        os.set_inheritable(kept, False)


def _lock(path: str) -> int:
    """Take the lock that makes us the only taskd of this directory; -1 when another one has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


def _read_inheritance(descriptor: int) -> Json:
    if descriptor < 0:
        return {}
    with open(_inherit(descriptor), "rb") as file:
        file.seek(0)
        return read_object(file.read())


def _inherit(descriptor: object) -> int:
    """Take a descriptor over, and keep it from the tasks."""
    number = int(str(descriptor))
    os.set_inheritable(number, False)
    return number


def _part(inherited: Json, name: str) -> Json:
    """Return one part of what was handed over; empty when there is none."""
    part = inherited.get(name)
    return part if isinstance(part, dict) else {}


def _mounts() -> tuple[Mount, ...]:
    with open("/proc/self/mountinfo") as mounts, open("/proc/self/cgroup") as membership:
        return read_mounts(mounts.read(), membership.read())


def _number(request: Json, name: str) -> int:
    value = request.get(name, 0)
    if not isinstance(value, int):
        raise BadRecord(f"{name} is not a number")
    return value


def _seconds(request: Json, name: str) -> float:
    value = request.get(name, 0.0)
    if not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise BadRecord(f"{name} is not a number of seconds")
    return float(value)
