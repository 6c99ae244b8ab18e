"""``swarmctl support-bundle``: what somebody who helps wants to see of a swarm, in one file, without its secrets."""

from __future__ import annotations

import argparse
import io
import json
import platform
import tarfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.parser import Parser
from services.cli.plain import plain
from services.cli.redaction import redacted
from services.cli.verbs.version import own_version
from services.kit.errors import FailedPrecondition, SwarmError

WHY_MAX = 50
"""Services that are asked why, those that lack tasks first."""


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "file", nargs="?", default="swarmbus-support.tar.gz", metavar="FILE", help="default swarmbus-support.tar.gz"
    )


async def _run(context: Context, flags: argparse.Namespace) -> Outcome:
    parts = await _parts(context)
    _write(Path(flags.file), packed(parts, context.clock.wall()))
    context.output.line(flags.file)
    return Outcome.OK


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be written: {error.strerror}") from None


async def _parts(context: Context) -> dict[str, Any]:
    """Return the documents by name; what cannot be had is told in its place."""
    client = context.client
    parts: dict[str, Any] = {
        "machine": {"system": platform.platform(), "python": platform.python_version(), "swarmctl": own_version()}
    }
    asks: dict[str, Callable[[], Awaitable[object]]] = {
        "version": client.version,
        "cluster": client.clusters.get,
        "nodes": client.nodes.list,
        "services": client.services.list,
        "statuses": client.services.statuses,
        "tasks": client.tasks.list_with_specs,
        "secrets": client.secrets.list,
        "configs": client.configs.list,
    }
    for name, ask in asks.items():
        parts[name] = await _asked(ask)
    for name in _lacking(parts):
        parts[f"why/{name}"] = await _asked(partial(client.why, name))
    return parts


async def _asked(ask: Callable[[], Awaitable[object]]) -> Any:
    try:
        return redacted(plain(await ask()))
    except SwarmError as error:
        return {"error": str(error)}


def _lacking(parts: dict[str, Any]) -> list[str]:
    """Return the names of services that have fewer tasks than they want."""
    services, statuses = parts["services"], parts["statuses"]
    if not isinstance(services, list) or not isinstance(statuses, list):
        return []
    lack = {each["service_id"] for each in statuses if each["running"] < each["desired"]}
    return [each["spec"]["annotations"]["name"] for each in services if each["id"] in lack][:WHY_MAX]


def packed(parts: dict[str, Any], now: float) -> bytes:
    """Return the documents as a compressed archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, value in sorted(parts.items()):
            text = json.dumps(value, indent=2, ensure_ascii=False).encode()
            entry = tarfile.TarInfo(f"swarmbus-support/{name}.json")
            entry.size, entry.mtime, entry.mode = len(text), int(now), 0o600
            tar.addfile(entry, io.BytesIO(text))
    return archive.getvalue()


COMMANDS = (
    Command(
        name="support-bundle",
        summary="write what a helper wants to see of the swarm into one file, without its secrets",
        arguments=_arguments,
        run=_run,
    ),
)
