"""How a swarmctl command ended: its exit code. docs/swarmctl.md prints this table, a test compares them."""

from __future__ import annotations

from enum import IntEnum

from services.kit.errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SwarmError,
    Unauthenticated,
    Unavailable,
)


class Outcome(IntEnum):
    """Exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    TIMED_OUT = 6
    DENIED = 7
    INTERRUPTED = 130


MEANINGS = {
    Outcome.OK: "done",
    Outcome.FAILED: "the operation failed, or the service cannot become what its spec says",
    Outcome.USAGE: "the command line, the spec or the stack file is wrong; nothing was changed",
    Outcome.NOT_FOUND: "no such object",
    Outcome.CONFLICT: "the name is taken, or somebody else changed the object at the same time",
    Outcome.UNAVAILABLE: "nobody listens on the control socket, or the swarm has no leader",
    Outcome.TIMED_OUT: "no answer, or no convergence, in time; the change may have been made",
    Outcome.DENIED: "the caller may not do this",
    Outcome.INTERRUPTED: "interrupted; what was begun goes on in the swarm",
}

_BY_ERROR: tuple[tuple[type[SwarmError], Outcome], ...] = (
    (InvalidArgument, Outcome.USAGE),
    (NotFound, Outcome.NOT_FOUND),
    (AlreadyExists, Outcome.CONFLICT),
    (Conflict, Outcome.CONFLICT),
    (Unavailable, Outcome.UNAVAILABLE),
    (DeadlineExceeded, Outcome.TIMED_OUT),
    (Cancelled, Outcome.INTERRUPTED),
    (PermissionDenied, Outcome.DENIED),
    (Unauthenticated, Outcome.DENIED),
)


def outcome_of(error: SwarmError) -> Outcome:
    """Return the exit code for an error."""
    return next((outcome for kind, outcome in _BY_ERROR if isinstance(error, kind)), Outcome.FAILED)
