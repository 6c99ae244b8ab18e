"""The error tree: every operating error of the product, with its wire code and whether a retry is safe.

Raised anywhere, turned into an ERROR frame in one place (the bus) and back into the same class on the other side.

    SwarmError
    ├── InvalidArgument      the request is wrong: carries every problem with path, value and hint
    ├── NotFound             no such object
    ├── AlreadyExists        the name or id is taken
    ├── PermissionDenied     the caller is known and may not
    ├── Unauthenticated      the caller is not who it must be
    ├── FailedPrecondition   right request, wrong state of the swarm
    ├── Conflict             a version moved on; read again and retry
    ├── ResourceExhausted    a written bound was reached
    ├── Unavailable          not here or not now: may name the leader; says whether the call may have run
    ├── DeadlineExceeded     the caller's time ran out; the call may have run
    ├── Cancelled            the caller lost interest
    ├── Unimplemented        no such method or feature here
    ├── DataLoss             stored data is damaged
    └── Internal             a bug on the other side; only its class name crosses the wire

Programmer errors are ``AssertionError`` and never travel.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self

import msgspec


class Code(IntEnum):
    """Wire codes, numbered as gRPC numbers them."""

    CANCELLED = 1
    INTERNAL = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    CONFLICT = 10
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One mistake in a user's input."""

    path: str
    """Where: dotted path into the input, for example ``task.resources.limits.memory_bytes``."""
    reason: str
    """What is wrong, one sentence without a full stop."""
    value: str = ""
    """The offending value as the user wrote it, shortened."""
    hint: str = ""
    """How to mend it."""

    def __str__(self) -> str:
        value = f" (got {self.value})" if self.value else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.path}: {self.reason}{value}{hint}"


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an error carries besides its message."""

    problems: tuple[Problem, ...] = ()
    leader: str = ""
    """Node id of the leader to ask instead."""
    leader_addr: str = ""
    """Its remote API address, ``host:port``."""
    retry_ms: int = 0
    """Do not retry sooner than this."""
    maybe_executed: bool = False
    """True when the call may have had its effect."""


NO_DETAILS = Details()


class SwarmError(Exception):
    """Root of all operating errors."""

    code: ClassVar[Code] = Code.INTERNAL

    def __init__(self, message: str, details: Details = NO_DETAILS) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __str__(self) -> str:
        return self.message


class InvalidArgument(SwarmError):
    """The request is wrong; ``problems`` lists every mistake found."""

    code = Code.INVALID_ARGUMENT

    @classmethod
    def of(cls, problems: tuple[Problem, ...]) -> Self:
        """Build one from a non-empty list of problems."""
        assert problems, "an InvalidArgument needs a problem"
        return cls("; ".join(str(p) for p in problems), Details(problems=problems))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """All mistakes found in the input."""
        return self.details.problems


class NotFound(SwarmError):
    """No such object."""

    code = Code.NOT_FOUND


class AlreadyExists(SwarmError):
    """The name or id is taken."""

    code = Code.ALREADY_EXISTS


class PermissionDenied(SwarmError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED


class Unauthenticated(SwarmError):
    """The caller could not prove who it is."""

    code = Code.UNAUTHENTICATED


class Distrusted(Unauthenticated):
    """The other side showed a certificate that this side does not trust. Raised here, never sent: the other side refused nothing."""


class FailedPrecondition(SwarmError):
    """The swarm is not in a state that allows this."""

    code = Code.FAILED_PRECONDITION


class Conflict(SwarmError):
    """The object changed since it was read."""

    code = Code.CONFLICT


class ResourceExhausted(SwarmError):
    """A written bound was reached."""

    code = Code.RESOURCE_EXHAUSTED


class Unavailable(SwarmError):
    """Not here or not now; ``details.leader_addr`` may say where."""

    code = Code.UNAVAILABLE


class DeadlineExceeded(SwarmError):
    """The deadline passed; the call may have run."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(SwarmError):
    """The caller lost interest."""

    code = Code.CANCELLED


class Unimplemented(SwarmError):
    """No such method or feature at this peer."""

    code = Code.UNIMPLEMENTED


class DataLoss(SwarmError):
    """Stored data is damaged and was not touched."""

    code = Code.DATA_LOSS


class Internal(SwarmError):
    """A bug on the other side."""

    code = Code.INTERNAL


BY_CODE: dict[int, type[SwarmError]] = {
    leaf.code: leaf
    for leaf in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        Unauthenticated,
        FailedPrecondition,
        Conflict,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Unimplemented,
        DataLoss,
        Internal,
    )
}


def from_wire(code: int, message: str, details: Details = NO_DETAILS) -> SwarmError:
    """Return the error that a peer answered with; an unknown code becomes Internal."""
    return BY_CODE.get(code, Internal)(message, details)
