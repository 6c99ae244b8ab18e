"""What a request comes to: writes to make, and the errors that the store's refusals mean to a user."""

from __future__ import annotations

from services.kit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Problem,
    SwarmError,
)
from services.kit.model.objects import Object
from services.kit.model.value import Value
from services.kit.state.transaction import ConflictReason, Op, TxConflict

OTHERS_WERE_FASTER = frozenset(
    {
        ConflictReason.VERSION,
        ConflictReason.EXISTS,
        ConflictReason.MISSING,
        ConflictReason.REFERENCE,
        ConflictReason.BACKWARD,
        ConflictReason.ADDRESS,
    }
)
"""Refusals after which the request is judged again by what is there now."""


class Answer(Value, frozen=True, kw_only=True):
    """Writes, as one transaction, and the object that the user asked about, as it will be."""

    ops: tuple[Op, ...] = ()
    thing: Object | None = None


def out_of_sequence(noun: str, stored: int, given: int) -> Conflict:
    """Return the error for an update that was based on an old version."""
    return Conflict(
        f"update out of sequence: the {noun} is at version {stored}, the update is based on {given}; read it again"
    )


def refusal(conflict: TxConflict) -> SwarmError:
    """Return what a refusal of the store means to a user."""
    match conflict.reason:
        case ConflictReason.NAME | ConflictReason.EXISTS:
            return AlreadyExists(conflict.message)
        case ConflictReason.PORT:
            hint = "choose another published port, or 0 for a free one"
            return InvalidArgument.of((Problem(path="endpoint.ports", reason=conflict.message, hint=hint),))
        case ConflictReason.MISSING:
            return NotFound(conflict.message)
        case ConflictReason.TOO_LARGE | ConflictReason.MALFORMED:
            return FailedPrecondition(conflict.message)
        case (
            ConflictReason.VERSION
            | ConflictReason.REFERENCE
            | ConflictReason.BACKWARD
            | ConflictReason.ADDRESS
            | ConflictReason.REPEATED
        ):
            return Conflict(conflict.message)
