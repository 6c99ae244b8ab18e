"""``swarmctl backup``: the swarm in one encrypted file, looked at, and put into a fresh swarm."""

from __future__ import annotations

import argparse
import os
import sys
from getpass import getpass
from pathlib import Path

from services.cli.ages import timestamp
from services.cli.backup.content import Content, content_of
from services.cli.backup.file import SALT_BYTES, opened, sealed
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.outcomes import Outcome
from services.cli.parser import Parser, UsageError, add_flag, add_json
from services.cli.plain import to_json
from services.kit.errors import FailedPrecondition
from services.kit.model.objects import Config, Secret, Service
from services.kit.runtime.files import write_atomic
from services.kit.runtime.ids import SystemIds
from services.kit.state.tables import Table, name_of

PASSPHRASE_VARIABLE = "SWARMBUS_BACKUP_PASSPHRASE"
PASSPHRASE_CHARS_MIN = 8


def _file(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the file of the backup")
    parser.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help=f"file whose first line is the passphrase (default: ${PASSPHRASE_VARIABLE}, else it is asked for)",
    )


def _create_arguments(parser: Parser) -> None:
    _file(parser)
    add_flag(parser, "--force", help="replace a file that is there")


async def _create(context: Context, flags: argparse.Namespace) -> Outcome:
    _check_free(flags)
    passphrase = _passphrase(flags, twice=True)
    parts = await context.client.backups.read()
    data = sealed(parts, passphrase, SystemIds().secret("salt", SALT_BYTES))
    content = content_of(opened(data, passphrase))
    _write(Path(flags.file), data)
    context.output.line(flags.file)
    context.output.note(f"{_summary(content)}; without the passphrase nobody can read it, you neither")
    return Outcome.OK


def _check_free(flags: argparse.Namespace) -> None:
    path = Path(flags.file)
    if path.exists() and not flags.force:
        raise FailedPrecondition(f"{path} is there already: name another file, or give --force to replace it")


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomic(path, data)
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be written: {error.strerror}") from None


def _verify_arguments(parser: Parser) -> None:
    _file(parser)
    add_json(parser)


async def _verify(context: Context, flags: argparse.Namespace) -> Outcome:
    content = _read(flags)
    if flags.json:
        shown = {"version": content.version, "cluster": content.cluster_id, "at": content.at, "objects": content.counts}
        context.output.line(to_json(shown))
    else:
        context.output.line(f"whole and readable: {_summary(content)}")
    return Outcome.OK


def _restore_arguments(parser: Parser) -> None:
    _file(parser)
    add_flag(parser, "--dry-run", help="only tell what would be restored")


async def _restore(context: Context, flags: argparse.Namespace) -> Outcome:
    content = _read(flags)
    foreign = await _foreign(context, content)
    if foreign:
        more = ", …" if len(foreign) > len(foreign[:5]) else ""
        raise FailedPrecondition(
            f"a backup is restored into a fresh swarm, and this one has what is not in it: {', '.join(foreign[:5])}{more}"
        )
    if flags.dry_run:
        context.output.line(f"would restore {_summary(content)}")
        return Outcome.OK
    written = await context.client.backups.restore(content.parts)
    context.output.line(f"restored {written} of {len(content.objects)} objects: {_summary(content)}")
    context.output.note("services start where there is room; `swarmctl service ls` shows how far they are")
    return Outcome.OK


async def _foreign(context: Context, content: Content) -> list[str]:
    """Return what users have put into this swarm that the backup does not know."""
    client = context.client
    things: list[Service | Secret | Config] = [
        *await client.services.list(),
        *await client.secrets.list(),
        *await client.configs.list(),
    ]
    return [name_of(thing) or thing.id for thing in things if thing.id not in content.ids]


def _read(flags: argparse.Namespace) -> Content:
    path = Path(flags.file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}") from None
    return content_of(opened(data, _passphrase(flags, twice=False)))


def _passphrase(flags: argparse.Namespace, *, twice: bool) -> str:
    """Return the passphrase; one for a new file is asked for twice and must have some length."""
    if flags.passphrase_file:
        try:
            text = Path(flags.passphrase_file).read_text().partition("\n")[0]
        except OSError as error:
            raise FailedPrecondition(f"{flags.passphrase_file} cannot be read: {error.strerror}") from None
    elif os.environ.get(PASSPHRASE_VARIABLE):
        text = os.environ[PASSPHRASE_VARIABLE]
    elif sys.stdin.isatty():
        text = getpass("Passphrase: ")
        if twice and getpass("Again: ") != text:
            raise UsageError("the two passphrases differ")
    else:
        raise UsageError("a backup needs a passphrase", f"give --passphrase-file, or set ${PASSPHRASE_VARIABLE}")
    if twice and len(text) < PASSPHRASE_CHARS_MIN:
        raise UsageError(f"the passphrase is too short: give it at least {PASSPHRASE_CHARS_MIN} characters")
    return text


def _summary(content: Content) -> str:
    nouns = (Table.SERVICE, Table.SECRET, Table.CONFIG, Table.NETWORK, Table.NODE)
    counts = content.counts
    told = ", ".join(f"{counts.get(noun, 0)} {noun}s" for noun in nouns)
    return f"{told} of swarm {content.cluster_id} at version {content.version}, {timestamp(content.at)}"


COMMANDS = (
    Command(
        name="create",
        summary="write the swarm into an encrypted file",
        arguments=_create_arguments,
        run=_create,
    ),
    Command(
        name="verify",
        summary="tell whether such a file is whole, and what it holds",
        arguments=_verify_arguments,
        run=_verify,
        needs_node=False,
    ),
    Command(
        name="restore",
        summary="put what such a file holds into a fresh swarm",
        arguments=_restore_arguments,
        run=_restore,
    ),
)
