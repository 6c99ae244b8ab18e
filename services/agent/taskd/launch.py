"""Starting a task: one posix_spawn of a shell that joins the task's groups and then becomes the task.

Never a fork, so the cost does not grow with taskd. The shell's text is made of fixed pieces; everything of the user travels as a
positional parameter, and no variable is set, so nothing can be mistaken for code and nothing leaks into the task.
"""

from __future__ import annotations

import os
import resource
import signal
from contextlib import suppress

from services.agent.taskd.processes import TASK_ID_VARIABLE
from services.agent.taskd.records import Json, TaskSpec

SHELL = "/bin/sh"
_SETPRIV = ("/usr/bin/setpriv", "/bin/setpriv")
LAUNCH_FAILED = 125
"""Exit code of a task that could not be brought to its command; its standard error says why."""

_OOM_SCORE_FILE = "/proc/self/oom_score_adj"
_OOM_SCORE = -900
_DEFAULT_SIGNALS = tuple(
    number
    for number in sorted(signal.valid_signals())
    if number not in {signal.SIGKILL, signal.SIGSTOP} and number < 32
)


def find_setpriv() -> str | None:
    """Return the program that changes user and gives up rights, where the node has it."""
    return next((path for path in _SETPRIV if os.access(path, os.X_OK)), None)


class Launcher:
    """Starts tasks. taskd takes all descriptors it may have and hides from the out-of-memory killer; its tasks do neither.

    ``inherited`` is what ``hand_over`` of the same process returned before it became this program: by then the limits were changed.
    """

    def __init__(self, inherited: Json) -> None:
        files_soft, files_hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._files_soft = int(str(inherited.get("files_soft", files_soft)))
        self._oom_score = int(str(inherited.get("oom_score", _read_oom_score())))
        self._setpriv = find_setpriv() or _SETPRIV[0]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files_hard, files_hard))
        # Only root may; without it the kernel chooses among taskd and its tasks by their size, and taskd is small.
        with suppress(OSError), open(_OOM_SCORE_FILE, "w") as file:
            file.write(str(_OOM_SCORE))

    def hand_over(self) -> Json:
        """Return what a successor cannot read from the process any more."""
        return {"files_soft": self._files_soft, "oom_score": self._oom_score}

    def start(self, spec: TaskSpec, groups: tuple[str, ...], stdout: str, stderr: str, *, rlimits: bool) -> int:
        """Start the task in its own session and return its pid; raises OSError. ``rlimits``: limit memory by process, not by group."""
        environment = dict(entry.partition("=")[::2] for entry in spec.env)
        environment[TASK_ID_VARIABLE] = spec.id
        script, arguments = self._script(spec, groups, rlimits=rlimits)
        opened = (
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            # Opened for reading too, so that a task neither blocks on opening nor dies of SIGPIPE while taskd is away.
            (os.POSIX_SPAWN_OPEN, 1, stdout, os.O_RDWR, 0),
            (os.POSIX_SPAWN_OPEN, 2, stderr, os.O_RDWR, 0),
        )
        return os.posix_spawn(
            SHELL,
            ("sh", "-c", script, "taskd", *arguments, *self._privileges(spec), *spec.command),
            environment,
            file_actions=opened,
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULT_SIGNALS,
        )

    def _script(self, spec: TaskSpec, groups: tuple[str, ...], *, rlimits: bool) -> tuple[str, list[str]]:
        steps: list[tuple[str, str]] = [('echo 0 >"$1/cgroup.procs"', group) for group in groups]
        oom_score = spec.oom_score_adj or self._oom_score
        if oom_score != _read_oom_score():
            steps.append((f'echo "$1" >{_OOM_SCORE_FILE}', str(oom_score)))
        if self._files_soft != resource.RLIM_INFINITY:
            steps.append(('ulimit -S -n "$1"', str(self._files_soft)))
        if rlimits and spec.memory_bytes:
            steps.append(('ulimit -d "$1"', str(max(spec.memory_bytes // 1024, 1))))
        steps.append(('cd "$1"', spec.directory))
        script = "".join(f"{command} || exit {LAUNCH_FAILED}; shift; " for command, _ in steps)
        return f'{script}unset OLDPWD; exec "$@"', [argument for _, argument in steps]

    def _privileges(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return the command that gives up rights before the task begins."""
        options: list[str] = []
        if spec.user is not None:
            options += ["--reuid", str(spec.user.uid), "--regid", str(spec.user.gid)]
            groups = ",".join(map(str, spec.user.groups))
            options += ["--groups", groups] if groups else ["--clear-groups"]
        if spec.no_new_privileges:
            options.append("--no-new-privs")
        return (self._setpriv, *options, "--") if options else ()


def _read_oom_score() -> int:
    with open(_OOM_SCORE_FILE) as file:
        return int(file.read())
