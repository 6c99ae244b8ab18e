"""A transaction: a list of creates, updates and removes that takes effect whole or not at all, decided when it is applied."""

from __future__ import annotations

from enum import StrEnum

from services.kit.model.objects import Object
from services.kit.model.value import Value
from services.kit.state.tables import TABLE_OF, Table, encode_object

ANY_VERSION = -1

OPS_MAX = 2000
"""Most operations of one transaction."""
BYTES_MAX = 1_572_864
"""Most bytes of one transaction, 1.5 MiB as in SwarmKit."""


class Action(StrEnum):
    """What an operation does to an object."""

    CREATE = "create"
    UPDATE = "update"
    REMOVE = "remove"
    TASKS = "tasks"
    """Creates and updates of many tasks, packed (see ``packed.py``); ``id`` is the first one's."""


class Op(Value, frozen=True, kw_only=True):
    """One operation. ``base`` is the version the writer saw; ANY_VERSION does not look (for updates and removes)."""

    action: Action
    table: Table
    id: str
    object: bytes = b""
    base: int = 0


class Origin(Value, frozen=True, kw_only=True):
    """Who made a transaction, why and when: what makes the stream of events an audit trail."""

    actor: str = ""
    """A user, a node, or a process of the leader."""
    cause: str = ""
    """The method that was called, or the loops that decided."""
    at: float = 0.0
    """Wall clock of the proposer."""


NOBODY = Origin()


class Transaction(Value, frozen=True, kw_only=True):
    """(client, sequence) is its identity: applied once, answered alike however often it is proposed."""

    client: str
    sequence: int
    at: float
    """Wall clock of the proposer, seconds since the epoch; becomes created_at and updated_at."""
    ops: tuple[Op, ...]
    actor: str = ""
    cause: str = ""
    unanswered_from: int = 0
    """The client's oldest sequence that had no answer when this was made: what was answered before it need not be remembered."""

    @property
    def origin(self) -> Origin:
        """Who made it, why and when."""
        return Origin(actor=self.actor, cause=self.cause, at=self.at)


class ConflictReason(StrEnum):
    """Why a transaction did not take effect."""

    VERSION = "version"
    EXISTS = "exists"
    MISSING = "missing"
    NAME = "name"
    PORT = "port"
    ADDRESS = "address"
    """An address is held by another, or a subnet overlaps another network's."""
    REFERENCE = "reference"
    BACKWARD = "backward"
    """An observed or desired task state would move back."""
    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    REPEATED = "repeated"
    """It was answered long ago, and what it answered is forgotten."""


class TxConflict(Value, frozen=True, kw_only=True):
    """The first operation that could not be done."""

    reason: ConflictReason
    table: Table
    id: str
    message: str


class TxResult(Value, frozen=True, kw_only=True):
    """``version`` is that of the state after the transaction; with a conflict nothing changed."""

    version: int
    conflict: TxConflict | None = None


class Change(Value, frozen=True, kw_only=True):
    """One object as a transaction left it (or, for a remove, as it was last)."""

    action: Action
    table: Table
    id: str
    object: bytes = b""


def create(thing: Object) -> Op:
    """Return the operation that adds an object."""
    return Op(action=Action.CREATE, table=TABLE_OF[type(thing)], id=thing.id, object=encode_object(thing))


def update(thing: Object, *, base: int | None = None) -> Op:
    """Return the operation that replaces an object; ``base`` defaults to the version the object carries."""
    version = thing.meta.version if base is None else base
    return Op(action=Action.UPDATE, table=TABLE_OF[type(thing)], id=thing.id, object=encode_object(thing), base=version)


def remove(thing: Object, *, base: int | None = None) -> Op:
    """Return the operation that deletes an object; ``base`` defaults to the version the object carries."""
    version = thing.meta.version if base is None else base
    return Op(action=Action.REMOVE, table=TABLE_OF[type(thing)], id=thing.id, base=version)
