"""Backup: everything that users have put into the swarm, as one consistent whole, and the way back. Answered by the leader's dispatcher.

What comes out holds secrets in the clear: it is for operators at the control socket, who encrypt it before it touches a disk.
"""

from __future__ import annotations

from services.kit.messages.method import MANAGERS, Call, Feed, Owner
from services.kit.model.ids import ClusterId
from services.kit.model.value import Value

ITEM_BYTES_MAX = 640 << 10
"""Most bytes of objects in one item or one request, unless a single object is larger."""
ITEM_OBJECTS_MAX = 500
GROUP_BYTES_MAX = 1_400_000
"""Objects that must come back together share an item up to this size."""


class StoredObject(Value, frozen=True, kw_only=True):
    """One object as the store holds it."""

    table: str
    object: bytes
    """The object, encoded; ``kit.state.tables`` decodes it by table."""


class BackupRequest(Value, frozen=True, kw_only=True):
    """Ask for everything but running tasks."""


class BackupItem(Value, frozen=True, kw_only=True):
    """A part of the whole, restored by one request. All parts are of one version; together they have ``total`` objects."""

    version: int
    cluster_id: ClusterId
    at: float
    """When, by the clock of the leader."""
    total: int
    objects: tuple[StoredObject, ...] = ()


class RestoreRequest(Value, frozen=True, kw_only=True):
    """Put objects back, in one transaction. Those that are there already are left alone, so that a part can be sent again."""

    objects: tuple[StoredObject, ...]


class RestoreReply(Value, frozen=True, kw_only=True):
    """How many objects were made or changed; the others are there already, or there is nowhere to put them."""

    written: int


BACKUP = Feed(
    name="control.backup", request=BackupRequest, item=BackupItem, owner=Owner.DISPATCHER, roles=MANAGERS, leader=True
)
RESTORE = Call(
    name="control.restore",
    request=RestoreRequest,
    reply=RestoreReply,
    owner=Owner.DISPATCHER,
    roles=MANAGERS,
    leader=True,
    idempotent=True,
    timeout_s=30.0,
)

METHODS = (BACKUP, RESTORE)
