"""The flags of ``service create`` and ``service update``, under the names that docker users know. What they mean is in service_spec.py."""

from __future__ import annotations

from services.cli.parser import Parser, add_flag, add_json

CREATE_LISTS = (
    ("--env", "-e", "NAME=VALUE", "environment variable; without =VALUE it is taken from here"),
    ("--env-file", "", "FILE", "file of environment variables"),
    ("--label", "-l", "KEY=VALUE", "label of the service"),
    ("--container-label", "", "KEY=VALUE", "label of its containers"),
    ("--constraint", "", "EXPRESSION", "where tasks may run, for example node.role==worker"),
    ("--placement-pref", "", "spread=LABEL", "spread tasks over the values of a label"),
    ("--mount", "", "MOUNT", "type=bind,source=PATH,target=PATH[,readonly], also volume and tmpfs"),
    ("--publish", "-p", "PORT", "8080:80[/udp] or published=8080,target=80,mode=ingress|host,name=NAME"),
)
UPDATE_LISTS = (
    ("--env-add", "", "NAME=VALUE", "add or replace an environment variable"),
    ("--env-rm", "", "NAME", "remove an environment variable"),
    ("--label-add", "", "KEY=VALUE", "add or replace a label of the service"),
    ("--label-rm", "", "KEY", "remove a label of the service"),
    ("--container-label-add", "", "KEY=VALUE", "add or replace a label of its containers"),
    ("--container-label-rm", "", "KEY", "remove a label of its containers"),
    ("--constraint-add", "", "EXPRESSION", "add a constraint"),
    ("--constraint-rm", "", "EXPRESSION", "remove a constraint"),
    ("--placement-pref-add", "", "spread=LABEL", "add a preference"),
    ("--placement-pref-rm", "", "spread=LABEL", "remove a preference"),
    ("--mount-add", "", "MOUNT", "add or replace a mount"),
    ("--mount-rm", "", "TARGET", "remove the mount at a path"),
    ("--publish-add", "", "PORT", "publish a port, in place of another one for the same target"),
    ("--publish-rm", "", "TARGET", "no longer publish a target port"),
)
SCALARS = (
    ("--replicas", "NUMBER", "how many tasks (default 1)"),
    ("--replicas-max-per-node", "NUMBER", "most tasks on one node (default 0: no limit)"),
    ("--image", "IMAGE", "image to run; the same as the word behind the flags"),
    ("--hostname", "NAME", "hostname of the tasks, may be a template"),
    ("--user", "USER", "user that the command runs as"),
    ("--workdir", "PATH", "directory that it runs in"),
    ("--stop-signal", "SIGNAL", "what asks it to end (default SIGTERM)"),
    ("--stop-grace-period", "DURATION", "how long it may take to end (default 10s)"),
    ("--limit-cpu", "NUMBER", "most processors, for example 0.5"),
    ("--limit-memory", "SIZE", "most memory, for example 64m"),
    ("--reserve-cpu", "NUMBER", "processors that its node must have free"),
    ("--reserve-memory", "SIZE", "memory that its node must have free"),
    ("--restart-condition", "WHEN", "none, on-failure or any (default any)"),
    ("--restart-delay", "DURATION", "wait before a restart (default 5s)"),
    ("--restart-max-attempts", "NUMBER", "most restarts (default 0: no limit)"),
    ("--restart-window", "DURATION", "time over which restarts are counted (default 0: all time)"),
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


def create_arguments(parser: Parser) -> None:
    """Add the flags of ``service create``."""
    parser.add_argument("--name", metavar="NAME", help="name of the service (needed)")
    parser.add_argument(
        "--mode", metavar="MODE", help="replicated, global, replicated-job or global-job (default replicated)"
    )
    parser.add_argument("--driver", metavar="DRIVER", help="what runs the tasks: docker or process (default docker)")
    _add(parser, CREATE_LISTS)
    waiting_arguments(parser)


def update_arguments(parser: Parser) -> None:
    """Add the flags of ``service update``."""
    add_flag(parser, "--force", help="replace all tasks even when nothing changes")
    add_flag(parser, "--rollback", help="go back to the previous spec")
    _add(parser, UPDATE_LISTS)
    waiting_arguments(parser)


def _add(parser: Parser, lists: tuple[tuple[str, str, str, str], ...]) -> None:
    for flag, metavar, text in SCALARS:
        parser.add_argument(flag, metavar=metavar, help=text)
    for flag in ("--tty", "--read-only", "--init"):
        parser.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=_SWITCHES[flag])
    add_flag(parser, "--no-healthcheck", help="do without the image's health check")
    for flag, short, metavar, text in lists:
        names = (short, flag) if short else (flag,)
        parser.add_argument(*names, action="append", default=[], metavar=metavar, help=text)


_SWITCHES = {
    "--tty": "give it a terminal",
    "--read-only": "make its root filesystem read-only",
    "--init": "run a small init process in front of it",
}


def waiting_arguments(parser: Parser) -> None:
    """Add the flags of everything that waits for convergence."""
    add_flag(parser, "-d", "--detach", help="do not wait until it has converged")
    add_flag(parser, "-q", "--quiet", help="wait without showing progress")
    parser.add_argument("--timeout", metavar="DURATION", help="give up waiting after this time (default: wait on)")
    parser.add_argument(
        "--stable", metavar="DURATION", default="1s", help="how long tasks must stay up to count (default 1s)"
    )
    add_json(parser)
