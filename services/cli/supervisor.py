"""``supervisor``: runs a node on this host (``up``), asks it to stop (``down``), shows it (``status``).

Every flag of ``up`` is a field of the node's settings, explained there. What must stay true: a mistake gives one line on standard error and
the exit code of its kind, and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from getpass import getpass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from pydantic_core import PydanticUndefined

from services.cli import raft_tool
from services.kit.bus.api import Connection, LocalAddress
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import DeadlineExceeded, InvalidArgument, Problem, SwarmError, Unavailable
from services.kit.lifecycle.exit_codes import ExitCode, exit_code_of
from services.kit.lifecycle.settings import ENVIRONMENT_PREFIX
from services.kit.messages import supervise
from services.kit.messages.method import Empty
from services.kit.model.tokens import parse_token
from services.kit.model.unlock_key import parse_unlock_key
from services.kit.runtime.clock import SystemClock
from services.kit.runtime.processes import wait_end
from services.supervisor.config import SECRETS, NodeSettings, settings_from

DOWN_TIMEOUT_S = 60.0
_EPILOG = f"""Each option can be given as {ENVIRONMENT_PREFIX}<NAME> in the environment as well, for example {ENVIRONMENT_PREFIX}STATE_DIR, and as
a key of a settings file in TOML, for example state_dir = "/var/lib/swarmbus". A flag wins over the environment, the environment over the file."""


class _Parser(argparse.ArgumentParser):
    """Says one line about a mistake, with the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Leave with the message."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}; see `{self.prog} --help`\n")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        """Refuse what is not known here, where the known flags are at hand."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown[0].split("=")[0], flags, n=1)
            hint = f": did you mean {close[0]}?" if close else ""
            self.error(f"unknown argument {unknown[0]}{hint}")
        return known, unknown


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Be the command."""
    parsed = _parser().parse_args(arguments)
    try:
        code, reason = parsed.verb(parsed)
    except SwarmError as error:
        code, reason = exit_code_of(error), str(error)
    if reason:
        sys.stderr.write(f"supervisor: {reason}\n")
    sys.exit(code)


def _parser() -> _Parser:
    parser = _Parser(prog="supervisor", description="Run this host's node of a swarm.", allow_abbrev=False)
    parser.add_argument("-v", "--version", action="version", version=f"swarmbus {_version()}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="up|down|status|doctor|unlock|raft")
    up = verbs.add_parser(
        "up",
        help="run a node in the foreground: a new cluster, a joining node, or the node that the state directory holds",
        description="Run a node in the foreground until SIGINT or SIGTERM; a second signal forces the end.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    up.set_defaults(verb=_up)
    up.add_argument("--settings-file", type=Path, metavar="FILE", help="settings file in TOML to read")
    _add_settings(up)
    down = verbs.add_parser("down", help="ask the running node to stop and wait until it has", allow_abbrev=False)
    down.set_defaults(verb=_down)
    status = verbs.add_parser("status", help="show the running node and its processes", allow_abbrev=False)
    status.set_defaults(verb=_status)
    status.add_argument("--json", action="store_true", help="print JSON instead of a table")
    doctor = verbs.add_parser(
        "doctor",
        help="look at this machine as a node: what is wrong, and how to mend it",
        description="Look at ports, addresses, clocks, disk, certificate, managers and engine, whether the node runs or not, and change"
        " nothing. Give it the same options as `supervisor up`. Exit code 1 when there is a problem.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    doctor.set_defaults(verb=_doctor)
    doctor.add_argument("--settings-file", type=Path, metavar="FILE", help="settings file in TOML to read")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of lines")
    _add_settings(doctor)
    unlock = verbs.add_parser(
        "unlock",
        help="give a locked manager its unlock key, which is read from standard input",
        allow_abbrev=False,
    )
    unlock.set_defaults(verb=_unlock)
    for verb in (down, status, unlock):
        _add_field(verb, "state_dir")
    raft_tool.add(verbs)
    return parser


_SHORT = {"state_dir": "-d", "log_level": "-l"}


def _add_settings(parser: argparse.ArgumentParser) -> None:
    for name in NodeSettings.model_fields:
        _add_field(parser, name)


def _add_field(parser: argparse.ArgumentParser, name: str) -> None:
    """Make a flag of a setting. Values stay text: the settings model reads and checks them, wherever they come from."""
    field = NodeSettings.model_fields[name]
    flags = [f"--{name.replace('_', '-')}", *([_SHORT[name]] if name in _SHORT else [])]
    shown = field.description or ""
    extra: dict[str, Any] = {"dest": f"set_{name}", "default": None}
    if field.annotation is bool:
        parser.add_argument(*flags, action="store_const", const="true", help=shown, **extra)
        return
    several = name == "join_addr"
    default = field.default
    if default not in ("", (), PydanticUndefined) and name not in SECRETS:
        shown = f"{shown} (default {getattr(default, 'value', default)})"
    parser.add_argument(
        *flags, metavar="VALUE", action="append" if several else "store", help=shown.replace("%", "%%"), **extra
    )


def _settings(parsed: argparse.Namespace) -> NodeSettings:
    flags = {
        name.removeprefix("set_"): tuple(value) if isinstance(value, list) else value
        for name, value in vars(parsed).items()
        if name.startswith("set_") and value is not None
    }
    try:
        settings = settings_from(flags, getattr(parsed, "settings_file", None))
        token = settings.join_token.get_secret_value()
        if token:
            parse_token(token)
        key = settings.unlock_key.get_secret_value()
        if key:
            parse_unlock_key(key)
    except InvalidArgument as error:
        raise InvalidArgument.of(tuple(_in_words_of_flags(problem) for problem in error.problems)) from None
    return settings


def _in_words_of_flags(problem: Problem) -> Problem:
    if problem.path not in {*NodeSettings.model_fields, "settings_file"}:
        return problem
    return msgspec.structs.replace(problem, path=f"--{problem.path.replace('_', '-')}")


def _up(parsed: argparse.Namespace) -> tuple[int, str]:
    settings = _settings(parsed)
    from services.supervisor.shell.run import run_node  # noqa: PLC0415 - help and mistakes answer without loading a node

    return run_node(settings)


def _down(parsed: argparse.Namespace) -> tuple[int, str]:
    return asyncio.run(_with_node(_settings(parsed), _ask_to_stop))


def _unlock(parsed: argparse.Namespace) -> tuple[int, str]:
    settings = _settings(parsed)
    key = getpass("Unlock key: ") if sys.stdin.isatty() else sys.stdin.readline()
    parse_unlock_key(key)

    async def give(connection: Connection) -> None:
        await connection.call(supervise.UNLOCK, supervise.UnlockRequest(unlock_key=key.strip()))

    return asyncio.run(_with_node(settings, give))


def _status(parsed: argparse.Namespace) -> tuple[int, str]:
    return asyncio.run(_with_node(_settings(parsed), _print_status_json if parsed.json else _print_status))


def _doctor(parsed: argparse.Namespace) -> tuple[int, str]:
    settings = _settings(parsed)
    from services.cli.doctor.examination import examine  # noqa: PLC0415 - it loads half a node
    from services.cli.doctor.findings import Level, lines  # noqa: PLC0415

    async def look() -> int:
        clock = SystemClock()
        bus = ZmqBus(process="doctor", clock=clock)
        try:
            findings = await examine(settings, bus, clock)
        finally:
            await bus.close()
        if parsed.json:
            print(
                msgspec.json.format(msgspec.json.encode(list(map(msgspec.structs.asdict, findings))), indent=2).decode()
            )
        else:
            print("\n".join(lines(findings)))
        return ExitCode.CRASH if any(each.level is Level.PROBLEM for each in findings) else ExitCode.OK

    return asyncio.run(look()), ""


Ask = Callable[[Connection], Awaitable[None]]


async def _with_node(settings: NodeSettings, ask: Ask) -> tuple[int, str]:
    """Ask the supervisor of this state directory something."""
    bus = ZmqBus(process="cli", clock=SystemClock())
    try:
        connection = await bus.dial(LocalAddress(path=settings.supervisor_socket))
        await ask(connection)
    except Unavailable:
        return ExitCode.UNREACHABLE, f"no node runs with the state directory {settings.state_dir}"
    finally:
        await bus.close()
    return ExitCode.OK, ""


async def _ask_to_stop(connection: Connection) -> None:
    status = await connection.call(supervise.STATUS, Empty())
    await connection.call(supervise.STOP, Empty())
    if not await wait_end(status.pid, timeout_s=DOWN_TIMEOUT_S):
        raise DeadlineExceeded(f"the node (process {status.pid}) still runs after {DOWN_TIMEOUT_S:.0f} s")


async def _print_status(connection: Connection) -> None:
    status = await connection.call(supervise.STATUS, Empty())
    expires = _moment(status.certificate_not_after) if status.certificate_not_after else "-"
    heads = (
        ("node", status.node_id or "-"),
        ("cluster", status.cluster_id or "-"),
        ("role", status.role.value),
        ("state", status.state),
        ("remote api", status.remote_addr),
        ("control api", status.control_socket),
        ("certificate until", expires),
    )
    print("\n".join(f"{name:<18} {value}" for name, value in heads))
    rows = [("PROCESS", "PID", "STATE", "RESTARTS", "SINCE"), ("supervisor", str(status.pid), status.state, "0", "")]
    rows += [
        (each.process, str(each.pid or "-"), each.state, str(each.restarts), _moment(each.since))
        for each in status.processes
    ]
    print("\n" + "\n".join("{:<12} {:>8}  {:<12} {:>8}  {}".format(*row).rstrip() for row in rows))


async def _print_status_json(connection: Connection) -> None:
    status = await connection.call(supervise.STATUS, Empty())
    print(msgspec.json.format(msgspec.json.encode(msgspec.structs.asdict(status)), indent=2).decode())


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _version() -> str:
    try:
        return version("swarmbus")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
