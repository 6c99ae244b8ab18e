"""The tables of the store: their names, the type of their objects, and how an object becomes bytes and back."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

import msgspec

from services.kit.model.objects import (
    Cluster,
    Config,
    Meta,
    Network,
    Node,
    Object,
    Secret,
    Service,
    SpecVersion,
    Task,
    Volume,
)


class Table(StrEnum):
    """Names of the tables, in the order in which a full state is sent."""

    CLUSTER = "cluster"
    NODE = "node"
    SERVICE = "service"
    SPEC = "spec"
    TASK = "task"
    SECRET = "secret"
    CONFIG = "config"
    NETWORK = "network"
    VOLUME = "volume"


TYPES: dict[Table, type[Object]] = {
    Table.CLUSTER: Cluster,
    Table.NODE: Node,
    Table.SERVICE: Service,
    Table.SPEC: SpecVersion,
    Table.TASK: Task,
    Table.SECRET: Secret,
    Table.CONFIG: Config,
    Table.NETWORK: Network,
    Table.VOLUME: Volume,
}

TABLE_OF: dict[type[Object], Table] = {kind: table for table, kind in TYPES.items()}

_decoders = {table: msgspec.msgpack.Decoder(kind) for table, kind in TYPES.items()}
_encoder = msgspec.msgpack.Encoder()

ObjectT = TypeVar("ObjectT", bound=Object)


def encode_object(thing: Object) -> bytes:
    """Return the stored form of an object."""
    return _encoder.encode(thing)


def decode_object(table: Table, data: bytes) -> Object:
    """Return the object that ``encode_object`` made; raises msgspec.DecodeError on anything else."""
    return _decoders[table].decode(data)


def with_meta(thing: ObjectT, meta: Meta) -> ObjectT:
    """Return the object with its bookkeeping replaced."""
    return msgspec.structs.replace(thing, meta=meta)


_NAMELESS = frozenset({Node, SpecVersion, Task})


def name_of(thing: Object) -> str:
    """Return the name that must be unique in the object's table, lower-cased; empty where names are free."""
    if type(thing) in _NAMELESS:  # by far the most, so they are not matched with all the others first
        return ""
    match thing:
        case Secret() | Config() if thing.superseded_by is not None:
            return ""  # the next version has the name
        case Service() | Secret() | Config() | Network() | Volume():
            return thing.spec.annotations.name.lower()
        case Cluster():
            return "default"
        case _:
            return ""
