"""The flags of ``service create`` and ``service update``, under the names that docker users know. What they mean is in service_spec.py.

A flag that takes many values is ``--env`` when a service is made, and ``--env-add`` and ``--env-rm`` when it is changed; both arrive as
``env_add`` and ``env_rm``, so that they are read in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.cli.parser import Parser, add_flag, add_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """A flag that may be given several times."""

    name: str
    value: str
    key: str
    """What names one of the values when it is to go again."""
    text: str
    short: str = ""


SEVERAL = (
    Several(
        name="env",
        value="NAME=VALUE",
        key="NAME",
        text="environment variable; without =VALUE it is taken from here",
        short="-e",
    ),
    Several(name="label", value="KEY=VALUE", key="KEY", text="label of the service", short="-l"),
    Several(name="container-label", value="KEY=VALUE", key="KEY", text="label of its containers"),
    Several(
        name="constraint",
        value="EXPRESSION",
        key="EXPRESSION",
        text="where tasks may run, for example node.role==worker",
    ),
    Several(
        name="placement-pref", value="spread=LABEL", key="spread=LABEL", text="spread tasks over the values of a label"
    ),
    Several(
        name="mount",
        value="MOUNT",
        key="TARGET",
        text="type=bind,source=PATH,target=PATH[,readonly], also volume and tmpfs",
    ),
    Several(
        name="publish",
        value="PORT",
        key="TARGET-PORT",
        text="8080:80[/udp] or published=8080,target=80,mode=ingress|host,name=NAME",
        short="-p",
    ),
    Several(
        name="generic-resource", value="KIND=NUMBER", key="KIND", text="countable things its node must have, like gpu=1"
    ),
    Several(
        name="secret",
        value="SECRET",
        key="NAME",
        text="NAME, or source=NAME,target=FILE,uid=0,gid=0,mode=0400: a secret that tasks read as a file",
    ),
    Several(name="config", value="CONFIG", key="NAME", text="the same for a config"),
    Several(
        name="network",
        value="NETWORK",
        key="NETWORK",
        text="NAME, or name=NAME,alias=OTHER,driver-opt=KEY=VALUE: a network that tasks are on",
    ),
    Several(
        name="depends-on",
        value="SERVICE[:CONDITION]",
        key="SERVICE",
        text="place tasks only once another service is started (default), healthy or completed_successfully",
    ),
    Several(name="driver-opt", value="KEY=VALUE", key="KEY", text="option of the driver that runs the tasks"),
    Several(name="group", value="GROUP", key="GROUP", text="further group of the user that the command runs as"),
    Several(name="host", value="NAME:ADDRESS", key="NAME:ADDRESS", text="entry of the tasks' hosts file"),
    Several(name="dns", value="ADDRESS", key="ADDRESS", text="name server"),
    Several(name="dns-search", value="DOMAIN", key="DOMAIN", text="domain that names are looked up in"),
    Several(name="dns-option", value="OPTION", key="OPTION", text="option of the resolver"),
    Several(name="sysctl", value="KEY=VALUE", key="KEY", text="setting of the kernel, for its containers"),
    Several(name="ulimit", value="NAME=SOFT[:HARD]", key="NAME", text="limit of the kernel, like nofile=1024:2048"),
)
SCALARS = (
    ("--replicas", "NUMBER", "how many tasks (default 1)"),
    ("--max-concurrent", "NUMBER", "most tasks of a job at a time (default: as many as --replicas)"),
    ("--replicas-max-per-node", "NUMBER", "most tasks on one node (default 0: no limit)"),
    ("--image", "IMAGE", "image to run; the same as the word behind the flags"),
    ("--entrypoint", "COMMAND", "command in place of the image's entry point"),
    ("--hostname", "NAME", "hostname of the tasks, may be a template"),
    ("--user", "USER", "user that the command runs as"),
    ("--workdir", "PATH", "directory that it runs in"),
    ("--stop-signal", "SIGNAL", "what asks it to end (default SIGTERM)"),
    ("--stop-grace-period", "DURATION", "how long it may take to end (default 10s)"),
    ("--isolation", "MODE", "how a process is kept apart, as its driver knows it"),
    ("--limit-cpu", "NUMBER", "most processors, for example 0.5"),
    ("--limit-memory", "SIZE", "most memory, for example 64m"),
    ("--limit-pids", "NUMBER", "most processes of a task (default 0: no limit)"),
    ("--memory-swap", "SIZE", "swap space on top of --limit-memory, -1 for no limit"),
    ("--memory-swappiness", "NUMBER", "how readily memory is swapped, 0 to 100"),
    ("--oom-score-adj", "NUMBER", "how soon it is killed when memory runs out, -1000 to 1000"),
    ("--reserve-cpu", "NUMBER", "processors that its node must have free"),
    ("--reserve-memory", "SIZE", "memory that its node must have free"),
    ("--log-driver", "DRIVER", "where its containers' output goes"),
    ("--restart-condition", "WHEN", "none, on-failure or any (default any)"),
    ("--restart-delay", "DURATION", "wait before a restart (default 5s)"),
    ("--restart-max-attempts", "NUMBER", "most restarts (default 0: no limit)"),
    ("--restart-window", "DURATION", "time over which restarts are counted (default 0: all time)"),
    ("--restart-backoff", "FACTOR", "each restart in a row waits so many times longer (default 1)"),
    ("--restart-delay-max", "DURATION", "the longest wait that this leads to (default 5m)"),
    ("--restart-jitter", "RATIO", "part of the wait by which it varies (default 0)"),
    ("--schedule", "CRON", "when a job runs, like '30 4 * * mon-fri' or @hourly; empty: no schedule"),
    ("--schedule-time-zone", "ZONE", "time zone of the schedule (default UTC)"),
    ("--schedule-overlap", "WHAT", "allow, forbid or replace a run that still goes on (default forbid)"),
    ("--schedule-missed-window", "DURATION", "how late a missed run may still begin (default 10m)"),
    ("--schedule-keep", "NUMBER", "runs whose tasks are kept (default 3)"),
    ("--update-parallelism", "NUMBER", "tasks changed at once by an update, 0 for all (default 1)"),
    ("--update-delay", "DURATION", "wait between them (default 0s)"),
    ("--update-failure-action", "ACTION", "pause, continue or rollback (default pause)"),
    ("--update-monitor", "DURATION", "how long a new task is watched (default 5s)"),
    ("--update-max-failure-ratio", "RATIO", "part of the tasks that may fail (default 0)"),
    ("--update-order", "ORDER", "stop-first or start-first (default stop-first)"),
    ("--rollback-parallelism", "NUMBER", "tasks changed at once by a rollback, 0 for all (default 1)"),
    ("--rollback-delay", "DURATION", "wait between them (default 0s)"),
    ("--rollback-failure-action", "ACTION", "pause or continue (default pause)"),
    ("--rollback-monitor", "DURATION", "how long a task is watched (default 5s)"),
    ("--rollback-max-failure-ratio", "RATIO", "part of the tasks that may fail (default 0)"),
    ("--rollback-order", "ORDER", "stop-first or start-first (default stop-first)"),
    ("--health-cmd", "COMMAND", "shell command that tells whether a task is healthy"),
    ("--health-interval", "DURATION", "time between checks (default 30s)"),
    ("--health-timeout", "DURATION", "time a check may take (default 30s)"),
    ("--health-retries", "NUMBER", "failures in a row that mean unhealthy (default 3)"),
    ("--health-start-period", "DURATION", "time to start in, failures do not count (default 0s)"),
    ("--health-start-interval", "DURATION", "time between checks while starting (default 5s)"),
    ("--endpoint-mode", "MODE", "vip or dnsrr (default vip)"),
)
SWITCHES = (
    ("--tty", "give it a terminal"),
    ("--open-stdin", "keep its standard input open"),
    ("--read-only", "make its root filesystem read-only"),
    ("--init", "run a small init process in front of it"),
    ("--no-new-privileges", "let it gain no rights by set-user-id programs"),
)
BOTH = (
    ("--cap-add", "CAPABILITY", "capability that it gets beside the engine's default ones"),
    ("--cap-drop", "CAPABILITY", "capability that is taken from it"),
    ("--log-opt", "KEY=VALUE", "option of the log driver"),
)
"""Lists that are named the same for a new service and for a change of one."""


def create_arguments(parser: Parser) -> None:
    """Add the flags of ``service create``."""
    parser.add_argument("--name", metavar="NAME", help="name of the service (needed)")
    parser.add_argument(
        "--mode", metavar="MODE", help="replicated, global, replicated-job or global-job (default replicated)"
    )
    parser.add_argument("--driver", metavar="DRIVER", help="what runs the tasks: docker or process (default docker)")
    parser.add_argument("--env-file", action="append", default=[], metavar="FILE", help="file of environment variables")
    _add_common(parser)
    for several in SEVERAL:
        dest = several.name.replace("-", "_")
        names = (several.short, f"--{several.name}") if several.short else (f"--{several.name}",)
        parser.add_argument(
            *names, dest=f"{dest}_add", action="append", default=[], metavar=several.value, help=several.text
        )
        parser.set_defaults(**{f"{dest}_rm": []})
    parser.set_defaults(force=False)
    waiting_arguments(parser)


def update_arguments(parser: Parser) -> None:
    """Add the flags of ``service update``."""
    add_flag(parser, "--force", help="replace all tasks even when nothing changes")
    add_flag(parser, "--rollback", help="go back to the previous spec")
    _add_common(parser)
    for several in SEVERAL:
        adds = f"add or replace: {several.text}"
        parser.add_argument(f"--{several.name}-add", action="append", default=[], metavar=several.value, help=adds)
        removes = f"take away what --{several.name}-add adds"
        parser.add_argument(f"--{several.name}-rm", action="append", default=[], metavar=several.key, help=removes)
    parser.set_defaults(env_file=[])
    waiting_arguments(parser)


def _add_common(parser: Parser) -> None:
    for flag, metavar, text in SCALARS:
        parser.add_argument(flag, metavar=metavar, help=text)
    for flag, text in SWITCHES:
        parser.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=text)
    for flag, metavar, text in BOTH:
        parser.add_argument(flag, action="append", default=[], metavar=metavar, help=text)
    add_flag(parser, "--no-healthcheck", help="do without the image's health check")


def waiting_arguments(parser: Parser) -> None:
    """Add the flags of everything that waits for convergence."""
    add_flag(parser, "-d", "--detach", help="do not wait until it has converged")
    add_flag(parser, "-q", "--quiet", help="wait without showing progress")
    parser.add_argument("--timeout", metavar="DURATION", help="give up waiting after this time (default: wait on)")
    parser.add_argument(
        "--stable", metavar="DURATION", default="1s", help="how long tasks must stay up to count (default 1s)"
    )
    add_json(parser)
