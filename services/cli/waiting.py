"""Waiting for a service after a change of it: progress on standard error, the outcome as the exit code."""

from __future__ import annotations

import argparse

from services.cli.context import Context
from services.cli.outcomes import Outcome, outcome_of
from services.cli.plain import to_json
from services.cli.progress import Display, display_for
from services.client import text
from services.kit.errors import DeadlineExceeded, FailedPrecondition
from services.kit.model.objects import Service


class Patience:
    """How long to wait, read from the flags before anything is changed."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.detach: bool = flags.detach
        self.quiet: bool = flags.quiet
        self.json: bool = flags.json
        self.timeout_s = None if flags.timeout is None else text.duration_s(flags.timeout, "--timeout")
        self.stable_s = text.duration_s(flags.stable, "--stable")


async def changed(context: Context, service: Service, patience: Patience, *, rollback: bool = False) -> Outcome:
    """Print what was changed, then wait for it unless detached."""
    context.output.line(to_json(service) if patience.json else service.id)
    context.output.out.flush()
    return Outcome.OK if patience.detach else await wait(context, service, patience, rollback=rollback)


async def wait(context: Context, service: Service, patience: Patience, *, rollback: bool = False) -> Outcome:
    """Wait until a service converged and say how it ended."""
    name = service.spec.annotations.name
    display = display_for(context.output, quiet=patience.quiet)
    context.output.on_interrupt = (
        f"no longer waiting; the swarm goes on. `swarmctl service ps {name}` shows how far it has come."
    )
    outcome = await _converged(context, service, patience, display, rollback=rollback)
    context.output.on_interrupt = ""  # not in a finally: an interrupt passes by here before it is told
    return outcome


async def _converged(
    context: Context, service: Service, patience: Patience, display: Display, *, rollback: bool
) -> Outcome:
    name = service.spec.annotations.name
    try:
        await context.client.services.wait(
            service.id,
            timeout_s=patience.timeout_s,
            stable_s=patience.stable_s,
            rollback=rollback,
            on_progress=display.show,
        )
    except FailedPrecondition as error:
        context.output.error(str(error), [f"`swarmctl service ps {name}` shows its tasks"])
        return Outcome.FAILED
    except DeadlineExceeded as error:
        context.output.error(str(error), [f"`swarmctl service ps {name}` shows why; the swarm goes on trying"])
        return outcome_of(error)
    return Outcome.OK
