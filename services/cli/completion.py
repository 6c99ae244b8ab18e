"""Completing a command line: what the shells' scripts ask swarmctl for (``swarmctl __complete WORDS…``), and those scripts.

The answer is one candidate a line, with a description behind a tab, or ``:files`` where the shell should offer files. Live names come
from the swarm, asked briefly; without one there are none, and nothing is ever said about it. A metavar tells what a value is.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterable, Sequence

from services.cli.commands import GROUPS, Command, Group
from services.cli.output import Output
from services.cli.parser import Parser
from services.client.client import Client
from services.kit.errors import SwarmError

ASK_S = 1.0
FILES = ":files"
_FILE_METAVARS = frozenset({"FILE", "PATH"})
_CHOICES = {
    "--mode": ("replicated", "global", "replicated-job", "global-job"),
    "--driver": ("docker", "process"),
    "--restart-condition": ("none", "on-failure", "any"),
    "--update-failure-action": ("pause", "continue", "rollback"),
    "--rollback-failure-action": ("pause", "continue"),
    "--update-order": ("stop-first", "start-first"),
    "--rollback-order": ("stop-first", "start-first"),
    "--endpoint-mode": ("vip", "dnsrr"),
    "--availability": ("active", "pause", "drain"),
    "--rotate-join-token": ("worker", "manager"),
    "--type": ("node", "service", "task", "cluster", "secret", "config", "network"),
    "--format": ("json", "table"),
}
Candidate = tuple[str, str]
"""A word and what it means."""


def complete(words: Sequence[str], output: Output) -> None:
    """Print the candidates for the last of the words."""
    *before, current = words or ("",)
    found = _candidates(before, current)
    for word, text in found:
        if word.startswith(current) or word == FILES:
            output.line(f"{word}\t{text}" if text else word)


def _candidates(before: list[str], current: str) -> Iterable[Candidate]:
    socket, words = _leading(before)
    if not words:
        return [(group.name, group.summary) for group in GROUPS]
    group = next((group for group in GROUPS if group.name == words[0]), None)
    if group is None:
        return []
    command, rest = _command(group, words[1:])
    if command is None:
        return [] if rest else [(each.name, each.summary) for each in group.commands()]
    return _arguments(command, rest, current, socket)


def _leading(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the socket that is named in front, and the words behind such flags."""
    socket = None
    while words and words[0].startswith("-"):
        if words[0] in {"-s", "--socket"}:
            socket, words = (words[1] if len(words) > 1 else None), words[1:]
        words = words[1:]
    return socket, words


def _command(group: Group, words: list[str]) -> tuple[Command | None, list[str]]:
    commands = group.commands()
    if len(commands) == 1 and commands[0].name == group.name:
        return commands[0], words
    for command in commands:
        if words and words[0] in (command.name, *command.aliases):
            return command, words[1:]
    return None, words


def _arguments(command: Command, words: list[str], current: str, socket: str | None) -> Iterable[Candidate]:
    parser = Parser("swarmctl", "")
    parser.add_argument("-s", "--socket", metavar="PATH", help="control socket")
    command.arguments(parser)
    if "--" in words:
        return [(FILES, "")]
    flags = {name: action for action in parser._actions for name in action.option_strings}
    last = flags.get(words[-1]) if words else None
    if last is not None and last.nargs is None:
        return _value(words[-1], last, words, socket)
    if current.startswith("-"):
        return [(name, action.help or "") for name, action in flags.items() if name.startswith("--")]
    positionals = [action for action in parser._actions if not action.option_strings]
    given = _positionals_given(words, flags)
    if not positionals or (given >= len(positionals) and positionals[-1].nargs not in {"+", "*"}):
        return []
    return _value("", positionals[min(given, len(positionals) - 1)], words, socket)


def _positionals_given(words: list[str], flags: dict[str, argparse.Action]) -> int:
    count, skip = 0, False
    for word in words:
        action = None if skip else flags.get(word)
        count += not skip and not word.startswith("-")
        skip = action is not None and action.nargs is None
    return count


def _value(flag: str, action: argparse.Action, words: list[str], socket: str | None) -> Iterable[Candidate]:
    if flag in _CHOICES:
        return [(word, "") for word in _CHOICES[flag]]
    if action.choices is not None:
        return [(str(word), "") for word in action.choices]
    metavar = str(action.metavar)
    if metavar in _FILE_METAVARS:
        return [(FILES, "")]
    for name in ("-s", "--socket"):
        if name in words[:-1]:
            socket = words[words.index(name) + 1]
    return asyncio.run(_names(metavar, socket))


async def _names(metavar: str, socket: str | None) -> list[Candidate]:
    """Return the names that there are of what a metavar stands for; none when the swarm does not answer at once."""
    try:
        async with asyncio.timeout(ASK_S), Client(socket, timeout_s=ASK_S) as client:
            return await _live(metavar, client)
    except (SwarmError, TimeoutError):
        return []


async def _live(metavar: str, client: Client) -> list[Candidate]:
    match metavar:
        case "NODE":
            nodes = await client.nodes.list(stale=True)
            return [
                (node.description.hostname, f"{node.role.value}, {node.status.state.name.lower()}") for node in nodes
            ]
        case "TASK":
            return [(task.id, task.status.state.name.lower()) for task in await client.tasks.list(stale=True)]
        case "SERVICE" | "SERVICE|TASK" | "SERVICE|TASK|NODE" | "SERVICE=REPLICAS":
            end = "=" if metavar == "SERVICE=REPLICAS" else ""
            services = await client.services.list(stale=True)
            return [(service.spec.annotations.name + end, service.spec.task.container.image) for service in services]
        case "SECRET":
            return [(secret.spec.annotations.name, "") for secret in await client.secrets.list(stale=True)]
        case "CONFIG":
            return [(config.spec.annotations.name, "") for config in await client.configs.list(stale=True)]
        case "NETWORK":
            return [(network.spec.annotations.name, "") for network in await client.networks.list(stale=True)]
        case "STACK":
            from services.cli.stack.service import STACK_LABEL  # noqa: PLC0415 (brings a reader of YAML along)

            labels = [service.spec.annotations.labels for service in await client.services.list(stale=True)]
            return [(stack, "") for stack in sorted({each[STACK_LABEL] for each in labels if STACK_LABEL in each})]
        case _:
            return []


SCRIPTS = {
    "bash": r"""# swarmctl completion for bash: source <(swarmctl completion bash)
_swarmctl() {
    local candidates word
    COMPREPLY=()
    candidates=$(swarmctl __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return
    if [ "$candidates" = ":files" ]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
        return
    fi
    while IFS=$'\t' read -r word _; do
        [ -n "$word" ] && COMPREPLY+=("$word")
    done <<<"$candidates"
    case "${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -F _swarmctl swarmctl
""",
    "zsh": r"""#compdef swarmctl
# swarmctl completion for zsh: source <(swarmctl completion zsh), behind compinit
_swarmctl() {
    local line
    local -a lines described
    lines=("${(@f)$(swarmctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "$lines[1]" == ":files" ]]; then
        _files
        return
    fi
    for line in $lines; do
        described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe swarmctl described
}
compdef _swarmctl swarmctl
""",
    "fish": r"""# swarmctl completion for fish: swarmctl completion fish | source
function __swarmctl_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l lines (swarmctl __complete $words[2..] 2>/dev/null)
    if test "$lines[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $lines
    end
end
complete -c swarmctl -f -a '(__swarmctl_complete)'
""",
}
