"""What every command has at hand: the client, the output, the clock, and names for ids."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from services.cli.outcomes import Outcome, outcome_of
from services.cli.output import Output
from services.cli.parser import did_you_mean
from services.client.client import Client
from services.kit.errors import InvalidArgument, NotFound, SwarmError
from services.kit.model.ids import NodeId
from services.kit.runtime.clock import Clock, SystemClock


@dataclass
class Context:
    """One run of one command."""

    client: Client
    output: Output
    clock: Clock = field(default_factory=SystemClock)

    async def node_names(self, *, resolve: bool = True) -> dict[NodeId, str]:
        """Return hostnames by node id; empty when ids are wanted."""
        if not resolve:
            return {}
        nodes = await self.client.nodes.list(stale=True)
        return {node.id: node.spec.annotations.name or node.description.hostname for node in nodes}

    @asynccontextmanager
    async def suggesting_services(self, ref: str) -> AsyncIterator[None]:
        """Add the name that was probably meant to a NotFound."""
        try:
            yield
        except NotFound as error:
            with contextlib.suppress(SwarmError):
                services = await self.client.services.list(stale=True)
                _suggest(error, ref, (service.spec.annotations.name for service in services))
            raise

    @asynccontextmanager
    async def suggesting_nodes(self, ref: str) -> AsyncIterator[None]:
        """Add the hostname that was probably meant to a NotFound."""
        try:
            yield
        except NotFound as error:
            with contextlib.suppress(SwarmError):
                _suggest(error, ref, (await self.node_names()).values())
            raise

    async def each(self, refs: Iterable[str], act: Callable[[str], Awaitable[str]]) -> Outcome:
        """Do something to several objects and print what comes back; goes on after a failure, and ends as the first failure does."""
        outcome = Outcome.OK
        for ref in refs:
            try:
                self.output.line(await act(ref))
            except SwarmError as error:
                report(self.output, error)
                outcome = outcome or outcome_of(error)
        return outcome


def _suggest(error: NotFound, ref: str, names: Iterable[str]) -> None:
    hint = did_you_mean(ref, names)
    if hint:
        error.add_note(hint)


def report(output: Output, error: SwarmError) -> None:
    """Print an error: one sentence, or one line for each mistake in a spec, and how to mend it."""
    hints = getattr(error, "__notes__", [])
    problems = error.problems if isinstance(error, InvalidArgument) else ()
    if not problems:
        output.error(str(error), hints)
        return
    if len(problems) > 1:
        output.error(f"there are {len(problems)} mistakes:")
        for problem in problems:
            value = f" (got {problem.value})" if problem.value else ""
            output.note(f"  {problem.path}: {problem.reason}{value}")
            if problem.hint:
                output.note(f"    hint: {problem.hint}")
        return
    only = problems[0]
    value = f" (got {only.value})" if only.value else ""
    output.error(f"{only.path}: {only.reason}{value}", [only.hint] if only.hint else [])
