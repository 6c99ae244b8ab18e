"""Errors of the swarm as Docker answers them: HTTP status and text."""

from __future__ import annotations

from services.kit.errors import (
    AlreadyExists,
    Cancelled,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SwarmError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

_STATUS: tuple[tuple[type[SwarmError], int, str], ...] = (
    (InvalidArgument, 400, "InvalidArgument"),
    (FailedPrecondition, 400, "FailedPrecondition"),
    (NotFound, 404, ""),
    (AlreadyExists, 409, "AlreadyExists"),
    (Conflict, 500, "Unknown"),
    (PermissionDenied, 403, "PermissionDenied"),
    (Unauthenticated, 401, "Unauthenticated"),
    (ResourceExhausted, 503, "ResourceExhausted"),
    (Unavailable, 503, ""),
    (DeadlineExceeded, 504, "DeadlineExceeded"),
    (Cancelled, 499, "Canceled"),
    (Unimplemented, 501, ""),
)
OUT_OF_SEQUENCE = "update out of sequence"


def answer(error: SwarmError) -> tuple[int, str]:
    """Return the status and the message; Docker's daemon shows the code of the errors that its manager answers with."""
    for kind, status, word in _STATUS:
        if isinstance(error, kind):
            text = OUT_OF_SEQUENCE if kind is Conflict else str(error)
            return status, f"rpc error: code = {word} desc = {text}" if word else text
    return 500, f"rpc error: code = Internal desc = {error}"


def not_found(noun: str, ref: str) -> NotFound:
    """Return the error for an object that is not there, in Docker's words."""
    return NotFound(f"{noun} {ref} not found")


def name_taken(noun: str, name: str) -> AlreadyExists:
    """Return the error for a name that is taken, in Docker's words."""
    return AlreadyExists(f"name conflicts with an existing object: {noun} {name} already exists")
