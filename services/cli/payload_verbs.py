"""The verbs of ``swarmctl secret`` and ``swarmctl config``, which are the same but for the noun."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from services.cli.ages import ago, timestamp
from services.cli.commands import Command
from services.cli.context import Context
from services.cli.listing import show_list, show_page
from services.cli.outcomes import Outcome
from services.cli.output import Row
from services.cli.parser import Parser, UsageError, add_format, add_listing
from services.cli.reading import Reading
from services.cli.tables import short
from services.client import text
from services.client.payloads import Configs, Secrets
from services.kit.model.objects import Config, Secret
from services.kit.model.specs import Annotations, ConfigSpec, SecretSpec

HEADER = ("ID", "NAME", "VERSION", "LABELS", "CREATED", "UPDATED")


class PayloadVerbs:
    """Verbs for one of the two nouns."""

    def __init__(self, noun: str) -> None:
        self.noun = noun

    def commands(self) -> tuple[Command, ...]:
        """Return the verbs."""
        noun = self.noun
        return (
            Command(
                name="create",
                summary=f"create a {noun} from a file or from standard input",
                arguments=self._create_arguments,
                run=self._create,
            ),
            Command(name="ls", summary=f"list {noun}s", arguments=add_listing, run=self._list, aliases=("list",)),
            Command(
                name="inspect",
                summary=f"show a {noun}" + ("" if noun == "config" else ", never its data"),
                arguments=self._inspect_arguments,
                run=self._inspect,
            ),
            Command(
                name="update",
                summary=f"change a {noun}'s labels",
                arguments=self._update_arguments,
                run=self._update,
            ),
            Command(
                name="rotate",
                summary="make a new version and roll its users over to it; those that fail go back",
                arguments=self._rotate_arguments,
                run=self._rotate,
            ),
            Command(
                name="rm",
                summary=f"remove {noun}s with all of their versions",
                arguments=self._remove_arguments,
                run=self._remove,
                aliases=("remove",),
            ),
        )

    # -- create and rotate

    def _create_arguments(self, parser: Parser) -> None:
        parser.add_argument("name", metavar="NAME", help=f"what the {self.noun} is called")
        parser.add_argument(
            "file", nargs="?", default="-", metavar="FILE", help="file with the data, - for standard input"
        )
        parser.add_argument("--label", "-l", action="append", default=[], metavar="KEY=VALUE", help="a label")

    async def _create(self, context: Context, flags: argparse.Namespace) -> Outcome:
        reading = Reading()
        labels = dict(reading.all(text.pair, flags.label, "--label"))
        reading.finish()
        annotations, data = Annotations(name=flags.name, labels=labels), read_data(flags.file)
        things = context.client.secrets if self.noun == "secret" else context.client.configs
        if isinstance(things, Secrets):
            made: Secret | Config = await things.create(SecretSpec(annotations=annotations, data=data))
        else:
            made = await things.create(ConfigSpec(annotations=annotations, data=data))
        context.output.line(made.id)
        return Outcome.OK

    def _rotate_arguments(self, parser: Parser) -> None:
        self._one(parser)
        parser.add_argument(
            "file", nargs="?", default="-", metavar="FILE", help="file with the new data, - for standard input"
        )

    async def _rotate(self, context: Context, flags: argparse.Namespace) -> Outcome:
        rotation = await self._things(context).rotate(flags.ref, read_data(flags.file))
        made = rotation.secret or rotation.config
        assert made is not None, "a rotation makes one of the two"
        context.output.line(made.id)
        users = ", ".join(rotation.services) or "none"
        context.output.note(f"version {made.number}; services that roll over: {users}")
        return Outcome.OK

    # -- reading

    async def _list(self, context: Context, flags: argparse.Namespace) -> Outcome:
        things: Sequence[Secret | Config] = await self._things(context).list()
        now = context.clock.wall()
        show_list(context, flags, things, HEADER, [payload_row(each, now, whole=flags.no_trunc) for each in things])
        return Outcome.OK

    def _inspect_arguments(self, parser: Parser) -> None:
        self._one(parser)
        add_format(parser)

    async def _inspect(self, context: Context, flags: argparse.Namespace) -> Outcome:
        thing: Secret | Config = await self._things(context).get(flags.ref)
        show_page(context, flags, thing, lambda: payload_page(thing))
        return Outcome.OK

    # -- changing

    def _update_arguments(self, parser: Parser) -> None:
        self._one(parser)
        parser.add_argument(
            "--label-add", action="append", default=[], metavar="KEY=VALUE", help="add or replace a label"
        )
        parser.add_argument("--label-rm", action="append", default=[], metavar="KEY", help="remove a label")

    async def _update(self, context: Context, flags: argparse.Namespace) -> Outcome:
        if not flags.label_add and not flags.label_rm:
            raise UsageError("there is nothing to change", f"see `swarmctl {self.noun} update --help`")
        reading = Reading()
        added = dict(reading.all(text.pair, flags.label_add, "--label-add"))
        reading.finish()

        def relabelled(old: Annotations) -> Annotations:
            kept = {key: value for key, value in old.labels.items() if key not in flags.label_rm}
            return replace(old, labels={**kept, **added})

        things = self._things(context)
        if isinstance(things, Secrets):
            made: Secret | Config = await things.update(
                flags.ref, lambda spec: replace(spec, annotations=relabelled(spec.annotations))
            )
        else:
            made = await things.update(flags.ref, lambda spec: replace(spec, annotations=relabelled(spec.annotations)))
        context.output.line(made.id)
        return Outcome.OK

    def _remove_arguments(self, parser: Parser) -> None:
        parser.add_argument("refs", nargs="+", metavar=self.noun.upper(), help="id, name, or beginning of an id")

    async def _remove(self, context: Context, flags: argparse.Namespace) -> Outcome:
        things = self._things(context)

        async def act(ref: str) -> str:
            return (await things.remove(ref)).id

        return await context.each(flags.refs, act)

    # -- inside

    def _one(self, parser: Parser) -> None:
        parser.add_argument("ref", metavar=self.noun.upper(), help="id, name, or beginning of an id")

    def _things(self, context: Context) -> Secrets | Configs:
        return context.client.secrets if self.noun == "secret" else context.client.configs


def read_data(source: str) -> bytes:
    """Return the bytes of a file, or of standard input; raises UsageError when there is no such file."""
    if source == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from error


def payload_row(thing: Secret | Config, now: float, *, whole: bool) -> Row:
    """Return a row of a list; a superseded version says so."""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(thing.spec.annotations.labels.items()))
    number = str(thing.number) if thing.superseded_by is None else f"{thing.number} (superseded)"
    return (
        short(thing.id, whole=whole),
        thing.spec.annotations.name,
        number,
        labels,
        ago(thing.meta.created_at, now),
        ago(thing.meta.updated_at, now),
    )


def payload_page(thing: Secret | Config) -> list[str]:
    """Return the lines of a page."""
    lines = [
        f"ID:       {thing.id}",
        f"Name:     {thing.spec.annotations.name}",
        f"Version:  {thing.number}" + ("" if thing.superseded_by is None else f", superseded by {thing.superseded_by}"),
        f"Created:  {timestamp(thing.meta.created_at)}",
        f"Updated:  {timestamp(thing.meta.updated_at)}",
    ]
    lines += [f"Label:    {key}={value}" for key, value in sorted(thing.spec.annotations.labels.items())]
    if isinstance(thing, Config):
        lines += ["Data:", *thing.spec.data.decode(errors="replace").splitlines()]
    return lines
