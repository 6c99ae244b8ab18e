"""Running the children: spawns what the machines say, tells them what happened, keeps their one timer.

Owned by the node. Every child is ``python -P -m services.<name>`` in a process group of its own, with the run directory as working
directory and an environment made for it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from services.kit.lifecycle.exit_codes import ExitCode
from services.kit.messages.supervise import ProcessStatus
from services.kit.runtime.clock import Clock
from services.kit.runtime.log import Log
from services.kit.runtime.processes import watch_end
from services.supervisor.core.child import (
    Begin,
    Child,
    ChildEvent,
    ChildState,
    Exited,
    GiveUp,
    Kill,
    Note,
    Served,
    Spawn,
    Stop,
    Terminate,
    Timer,
)
from services.supervisor.core.plan import OPTIONAL
from services.supervisor.shell.orphans import ChildrenLock

Command = Callable[[str], list[str]]


def python_module(name: str) -> list[str]:
    """Return the command line of a child."""
    return [sys.executable, "-P", "-m", f"services.{name}"]


class Children:
    """The children of one node. ``changed`` is called after each event, ``gave_up`` when a restart cannot help."""

    def __init__(
        self,
        *,
        clock: Clock,
        rng: random.Random,
        run_dir: Path,
        environment: Mapping[str, str],
        lock: ChildrenLock,
        changed: Callable[[], None],
        gave_up: Callable[[ExitCode, str], None],
        command: Command = python_module,
    ) -> None:
        self._clock = clock
        self._wall_offset_s = clock.wall() - clock.monotonic()
        self._rng = rng
        self._run_dir = run_dir
        self._environment = dict(environment)
        self._lock = lock
        self._changed = changed
        self._gave_up = gave_up
        self._command = command
        self._log = Log("children")
        self._children: dict[str, Child] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._ended: dict[str, asyncio.Event] = {}

    def start(self, names: tuple[str, ...]) -> None:
        """Start those of these children that are not there yet."""
        for name in names:
            child = self._children.get(name)
            if child is None or child.state is ChildState.STOPPED:
                self._children[name] = Child(name, self._rng)
                self._ended[name] = asyncio.Event()
                self._step(name, Begin())

    def served(self, name: str) -> None:
        """Take a child's report that it serves."""
        if name in self._children:
            self._step(name, Served())

    async def stop(self, stages: tuple[tuple[str, ...], ...]) -> None:
        """Stop the named children, stage after stage; returns when their processes are gone."""
        for stage in stages:
            names = [name for name in stage if name in self._children]
            for name in names:
                self._step(name, Stop())
            await asyncio.gather(*(self._ended[name].wait() for name in names))

    def kill(self) -> None:
        """Kill every child on the spot."""
        for name in self._children:
            self._step(name, Stop(force=True))

    @property
    def names(self) -> tuple[str, ...]:
        """Children that there are, whatever their state."""
        return tuple(self._children)

    @property
    def ready(self) -> frozenset[str]:
        """Children that serve."""
        return frozenset(name for name, child in self._children.items() if child.state is ChildState.READY)

    def statuses(self) -> tuple[ProcessStatus, ...]:
        """Return each child as users see it."""
        return tuple(
            ProcessStatus(
                process=name,
                pid=self._processes[name].pid if name in self._processes else 0,
                state=child.state.value,
                restarts=child.restarts,
                since=child.since + self._wall_offset_s,
            )
            for name, child in self._children.items()
        )

    # -- inside

    def _step(self, name: str, event: ChildEvent) -> None:
        child = self._children[name]
        for action in child.step(self._clock.monotonic(), event):
            match action:
                case Spawn():
                    self._spawn(name)
                case Terminate():
                    self._signal(name, signal.SIGTERM)
                case Kill():
                    self._log.warning("process killed", child=name)
                    self._signal(name, signal.SIGKILL)
                case Note():
                    self._log.error(action.event, child=name, cause=action.cause, restart_in_s=action.restart_in_s)
                case GiveUp() if name in OPTIONAL:
                    self._log.error("process given up", child=name, cause=action.reason)
                case GiveUp():
                    self._gave_up(action.code, action.reason)
        if child.state in {ChildState.STOPPED, ChildState.FAILED}:
            self._ended[name].set()
        self._arm(name, child)
        self._changed()

    def _spawn(self, name: str) -> None:
        try:
            process = subprocess.Popen(
                self._command(name),
                cwd=self._run_dir,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=(self._lock.descriptor,),
                process_group=0,
            )
        except OSError as error:
            self._log.error("process cannot be started", child=name, cause=str(error))
            asyncio.get_running_loop().call_soon(self._step, name, Exited(code=ExitCode.CRASH))
            return
        self._processes[name] = process
        watch_end(process.pid, lambda: self._reap(name))
        self._lock.record([running.pid for running in self._processes.values()])
        self._log.debug("process started", child=name, child_pid=process.pid)

    def _reap(self, name: str) -> None:
        self._step(name, Exited(code=self._processes.pop(name).wait()))

    def _signal(self, name: str, number: signal.Signals) -> None:
        if name in self._processes:
            self._processes[name].send_signal(number)

    def _arm(self, name: str, child: Child) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
        deadline = child.deadline()
        if deadline is not None:
            delay_s = max(0.0, deadline - self._clock.monotonic())
            self._timers[name] = asyncio.get_running_loop().call_later(delay_s, self._step, name, Timer())


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of children: a short list of the supervisor's own, then the settings; never a secret."""
    kept = {name: value for name, value in os.environ.items() if _passes(name)}
    source = str(Path(__file__).parents[3])
    return {**kept, "PYTHONPATH": source, **settings}


_KEPT = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "SSL_CERT_FILE"}
)
_KEPT_PREFIXES = ("LC_", "DOCKER_", "SWARMBUS_", "COVERAGE_")
_DROPPED = frozenset({"SWARMBUS_JOIN_TOKEN", "SWARMBUS_UNLOCK_KEY", "SWARMBUS_SETTINGS_FILE"})


def _passes(name: str) -> bool:
    return name in _KEPT or (name.startswith(_KEPT_PREFIXES) and name not in _DROPPED)
