"""The operator's tool for a member's files: ``python -m services.raft.tool status|log|snapshot|verify|recover``; `supervisor raft` runs it.

It asks the running raft process where that knows more, and reads the files otherwise; it never writes any. Exit codes are those of the processes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.kit.bus.api import LocalAddress
from services.kit.bus.zmq import ZmqBus
from services.kit.errors import SwarmError, Unavailable
from services.kit.lifecycle.exit_codes import ExitCode, exit_code_of
from services.kit.lifecycle.settings import ENVIRONMENT_PREFIX
from services.kit.messages import store
from services.kit.messages.method import Empty
from services.kit.model.unlock_key import parse_unlock_key
from services.kit.runtime.clock import SystemClock
from services.raft.shell.inspection import Inspection, Standing, most_advanced

LINES_MAX = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked and return the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        shown: str = parsed.verb(parsed)
    except SwarmError as error:
        sys.stderr.write(f"raft: {error}\n")
        return exit_code_of(error)
    sys.stdout.write(f"{shown}\n")
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supervisor raft", description="Look into this manager's part of the store.")
    verbs = parser.add_subparsers(title="verbs", required=True)
    for name, act, told in (
        ("status", _status, "how far this member got; from its files when it does not run"),
        ("log", _log, "the entries of the log"),
        ("snapshot", _snapshot, "what the snapshots hold"),
        ("verify", _verify, "read every file, check every frame, apply every entry"),
        ("recover", _recover, "after the loss of a majority: which member to go on with, and how"),
    ):
        verb = verbs.add_parser(name, help=told, description=told)
        verb.set_defaults(verb=act)
        known = os.environ.get(f"{ENVIRONMENT_PREFIX}STATE_DIR")
        verb.add_argument(
            "-d",
            "--state-dir",
            type=Path,
            default=known,
            required=known is None,
            help="state directory of the node (default %(default)s)",
        )
        verb.add_argument("--json", action="store_true", help="print JSON")
        if name == "log":
            verb.add_argument("--first", type=int, help=f"first index (default: the last {LINES_MAX} entries)")
            verb.add_argument("--last", type=int, help="last index")
        if name == "recover":
            told = "output of `supervisor raft status --json` of another stopped manager; may be repeated"
            verb.add_argument("--other", type=Path, action="append", default=[], metavar="FILE", help=told)
    return parser


def _inspect(parsed: argparse.Namespace) -> Inspection:
    """Read the files; those of a locked manager need the unlock key, which is no argument because everybody can read those."""
    written = os.environ.get(f"{ENVIRONMENT_PREFIX}UNLOCK_KEY", "")
    return Inspection(parsed.state_dir, parse_unlock_key(written) if written else b"")


def _status(parsed: argparse.Namespace) -> str:
    running = asyncio.run(_ask(parsed.state_dir))
    if running is None or parsed.json:
        standing = _inspect(parsed).standing()
        return _json(standing) if parsed.json else _describe(standing)
    rows = [("member", running.node_id), ("state", running.state), ("leader", running.leader or "-")]
    rows += [("term", str(running.term)), ("committed", str(running.commit_index))]
    rows += [("applied", str(running.applied_index)), ("version", str(running.version))]
    rows += [("manager", f"{m.node_id} {m.raft_addr} {m.reachability.value}") for m in running.members]
    return _table(rows)


async def _ask(state_dir: Path) -> store.RaftStatus | None:
    bus = ZmqBus(process="raft tool", clock=SystemClock())
    try:
        connection = await bus.dial(LocalAddress(path=str(state_dir / "run" / "raft.sock")))
        return await connection.call(store.STATUS, Empty())
    except Unavailable:
        return None
    finally:
        await bus.close()


def _describe(standing: Standing) -> str:
    rows = [("state", "not running"), ("term", str(standing.term)), ("voted for", standing.vote or "-")]
    rows += [("log", f"{standing.first_index} to {standing.last_index}, last term {standing.last_term}")]
    rows += [("committed", f"at least {standing.commit_index}"), ("snapshot", str(standing.snapshot_index or "-"))]
    rows += [("version", str(standing.version)), ("objects", str(standing.objects))]
    rows += [("torn tail", f"{standing.torn_bytes} bytes, never acknowledged")] if standing.torn_bytes else []
    return _table(rows + [("manager", member) for member in standing.members])


def _log(parsed: argparse.Namespace) -> str:
    inspection = _inspect(parsed)
    last = parsed.last or inspection.log.entries.last
    first = parsed.first or last - LINES_MAX + 1
    lines = list(inspection.lines(first, last))
    if parsed.json:
        return _json(lines)
    return "\n".join(f"{e.index:>10} {e.term:>6} {e.kind:<12} {e.bytes:>9}  {'; '.join(e.what)}" for e in lines)


def _snapshot(parsed: argparse.Namespace) -> str:
    lines = _inspect(parsed).snapshots()
    if parsed.json:
        return _json(lines)
    if not lines:
        return "no snapshot yet: the log holds everything"
    shown = []
    for line in lines:
        objects = ", ".join(f"{count} {table}" for table, count in line.objects.items()) or "none"
        rows = [("snapshot", f"{line.index}, term {line.term}, {line.bytes} bytes"), ("version", str(line.version))]
        rows += [("objects", objects), *(("manager", member) for member in line.members)]
        shown.append(_table(rows))
    return "\n\n".join(shown)


def _verify(parsed: argparse.Namespace) -> str:
    inspection = _inspect(parsed)
    snapshots = inspection.snapshots()
    machine = inspection.replay(inspection.log.entries.last)
    entries = inspection.log.entries
    if parsed.json:
        return _json({"entries": len(entries), "snapshots": len(snapshots), "torn_bytes": inspection.torn_bytes})
    torn = f"; {inspection.torn_bytes} torn bytes at the end were never acknowledged" if inspection.torn_bytes else ""
    return (
        f"whole: entries {entries.first} to {entries.last}, {len(snapshots)} snapshots,"
        f" {len(machine.state)} objects when all is applied{torn}"
    )


def _recover(parsed: argparse.Namespace) -> str:
    mine = _inspect(parsed).standing()
    others = [msgspec.json.decode(path.read_bytes(), type=Standing) for path in parsed.other]
    best = most_advanced([mine, *others])
    known = 1 + len(others)
    lines = [
        f"{s.directory}: last entry {s.last_index} of term {s.last_term}, version {s.version}" for s in [mine, *others]
    ]
    lines.append("")
    if known <= len(mine.members) // 2:
        lines.append(
            f"Only {known} of {len(mine.members)} managers were looked at: a more advanced one may exist, and what only"
            " that one holds is lost by going on without it. Bring `supervisor raft status --json` of the others with --other."
        )
    if best.directory != mine.directory:
        lines.append(f"Go on with {best.directory}, not with this one: its log is more advanced.")
    lines += [
        f"1. Make sure that the other managers of this cluster stay off: {', '.join(mine.members)}",
        f"2. supervisor up --state-dir {best.directory} --force-new-cluster",
        "3. On every other manager: remove the state directory and join again with a manager's token.",
    ]
    return _json({"go_on_with": best.directory, "looked_at": known}) if parsed.json else "\n".join(lines)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<12} {value}" for name, value in rows)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


if __name__ == "__main__":
    sys.exit(main())
