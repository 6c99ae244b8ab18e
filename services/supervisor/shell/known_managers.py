"""``state.json``: the managers this node knows, so that it finds its way back after a restart.

CURVE needs a manager's key in advance, so each is kept with its certificate.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.kit.errors import DataLoss
from services.kit.model.ids import NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.runtime.files import write_atomic


class _Peer(msgspec.Struct, frozen=True, kw_only=True):
    node_id: NodeId
    addr: str
    certificate: str


class _StateFile(msgspec.Struct, frozen=True, kw_only=True):
    managers: tuple[_Peer, ...] = ()


def load_managers(path: Path) -> tuple[ManagerPeer, ...]:
    """Return the managers in the file, none when there is no file; raises DataLoss when it cannot be read."""
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_StateFile)
    except FileNotFoundError:
        return ()
    except msgspec.DecodeError as error:
        raise DataLoss(f"{path} is damaged ({error}): remove it and give --join-addr of a manager once") from None
    return tuple(
        ManagerPeer(node_id=peer.node_id, addr=peer.addr, certificate=peer.certificate.encode())
        for peer in stored.managers
    )


def save_managers(path: Path, managers: tuple[ManagerPeer, ...]) -> None:
    """Replace the file."""
    peers = tuple(
        _Peer(node_id=peer.node_id, addr=peer.addr, certificate=peer.certificate.decode()) for peer in managers
    )
    write_atomic(path, msgspec.json.format(msgspec.json.encode(_StateFile(managers=peers)), indent=2) + b"\n")
