"""argparse with better manners: one sentence per mistake, did-you-mean, and words that belong to the task's command left alone."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

SIMILARITY_MIN = 0.6


class UsageError(Exception):
    """The command line is wrong."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Parser(argparse.ArgumentParser):
    """Reads one command's flags and words; raises UsageError."""

    def __init__(self, prog: str, description: str, *, usage: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            usage=usage,
            allow_abbrev=False,
            add_help=False,
            formatter_class=_formatter,
        )
        self.add_argument("-h", "--help", action="help", help="show this help and leave")

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UsageError(_plain_words(message), f"see `{self.prog} --help`")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the values of all flags and words."""
        values, unknown = self.parse_known_args(self._joined(words))
        if unknown:
            self._refuse(unknown[0])
        return values

    def split(self, words: Sequence[str]) -> tuple[list[str], list[str], list[str] | None]:
        """Split into flags, the words from the first one that is no flag, and what stands behind ``--`` (None without it).

        For commands that end in another command, whose own flags must not be read here.
        """
        index = 0
        while index < len(words):
            word = words[index]
            if word == "--":
                return list(words[:index]), [], list(words[index + 1 :])
            if not word.startswith("-") or word == "-":
                rest = list(words[index:])
                if "--" in rest:
                    cut = rest.index("--")
                    return list(words[:index]), rest[:cut], rest[cut + 1 :]
                return list(words[:index]), rest, None
            action = self._option_string_actions.get(word)
            index += 2 if action is not None and action.nargs != 0 else 1
        return list(words), [], None

    def _joined(self, words: Sequence[str]) -> list[str]:
        """Tie flags to values that begin with a dash and are no flags themselves; argparse would take them for flags."""
        joined: list[str] = []
        waiting = ""
        for word in words:
            if waiting and word.startswith("-") and word not in self._option_string_actions:
                joined[-1] += f"={word}" if waiting.startswith("--") else word
                waiting = ""
                continue
            action = None if waiting else self._option_string_actions.get(word)
            waiting = word if action is not None and action.nargs is None else ""
            joined.append(word)
        return joined

    def _refuse(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            raise UsageError(f"there is a word too many: {word!r}", f"see `{self.prog} --help`")
        flag = word.partition("=")[0]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        raise UsageError(f"unknown flag {flag}", did_you_mean(flag, known) or f"see `{self.prog} --help`")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=34, width=110)


def _plain_words(message: str) -> str:
    """Turn argparse's messages into sentences."""
    if message.startswith("the following arguments are required: "):
        return "missing: " + message.removeprefix("the following arguments are required: ")
    if message.startswith("argument "):
        flag, _, rest = message.removeprefix("argument ").partition(": ")
        return f"{flag} {rest}"
    return message


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that was probably meant, or nothing."""
    close = difflib.get_close_matches(word, sorted(set(known)), n=1, cutoff=SIMILARITY_MIN)
    return close[0] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word that was probably meant, or nothing."""
    meant = nearest(word, known)
    return f"did you mean {meant}?" if meant else ""


def add_flag(parser: argparse.ArgumentParser, *names: str, **settings: Any) -> None:
    """Add a flag that is off unless given."""
    parser.add_argument(*names, action="store_true", **settings)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Offer ``--json``."""
    add_flag(parser, "--json", help="print JSON")


def add_format(parser: argparse.ArgumentParser) -> None:
    """Offer ``--json`` and ``--format``."""
    add_json(parser)
    parser.add_argument(
        "--format", metavar="TEMPLATE", help="print through a template like '{{.ID}} {{.Name}}', or json"
    )


def add_listing(parser: argparse.ArgumentParser) -> None:
    """Offer what every list has."""
    add_format(parser)
    add_flag(parser, "-q", "--quiet", help="print ids only")
    add_flag(parser, "--no-trunc", help="do not shorten ids and commands")


def add_resolve(parser: argparse.ArgumentParser) -> None:
    """Offer ``--no-resolve``."""
    add_flag(parser, "-n", "--no-resolve", help="show ids instead of names")
