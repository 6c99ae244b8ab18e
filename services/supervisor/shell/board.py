"""What the supervisor knows of its node, and who may know it already: the facts that children are given.

Written by the node, read by the orders streams; every change wakes the readers. What must stay true: a child sees nothing before it may
begin, and from then on everything.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.kit.bus.identity import Identity
from services.kit.messages.method import MANAGER
from services.kit.messages.supervise import Facts
from services.kit.model.ids import ClusterId, NodeId
from services.kit.model.objects import ManagerPeer
from services.kit.model.states import Role
from services.kit.runtime.changes import Changes
from services.supervisor.core.plan import may_begin

UNLOCK_KEYS_MAX = 2
MAY_UNLOCK = frozenset({"raft", "ca"})
ROLES = {MANAGER: Role.MANAGER}


class Board:
    """Identity, managers and readiness of one node."""

    def __init__(self, *, certificates: Path, remote_addr: str) -> None:
        self.changes = Changes()
        self.identity: Identity | None = None
        self.bootstrapping = False
        self.unlock_keys: tuple[bytes, ...] = ()
        """Newest first: the store may still lie under the one before."""
        self.managers: tuple[ManagerPeer, ...] = ()
        self._certificates = certificates
        self._remote_addr = remote_addr
        self._serial = 0
        self._facts = self._form()

    @property
    def role(self) -> Role | None:
        """Role in the certificate, None before there is one."""
        return None if self.identity is None else ROLES.get(self.identity.role, Role.WORKER)

    @property
    def facts(self) -> Facts:
        """Everything known now."""
        return self._facts

    def begin_bootstrap(self) -> None:
        """Let the ca begin without an identity."""
        self.bootstrapping = True
        self.changes.announce()

    def set_identity(self, identity: Identity) -> None:
        """Take a new certificate."""
        self.identity = identity
        self.bootstrapping = False
        self._serial += 1
        self._publish()

    def lock_under(self, key: bytes) -> None:
        """Remember what the store is sealed under from now on."""
        older = tuple(known for known in self.unlock_keys if known != key)
        self.unlock_keys = (*((key,) if key else ()), *older)[:UNLOCK_KEYS_MAX]
        self.changes.announce()

    def set_managers(self, managers: tuple[ManagerPeer, ...]) -> bool:
        """Take a new list of managers; False when nothing changed."""
        managers = tuple(sorted(managers, key=lambda peer: peer.node_id))
        if managers == self.managers:
            return False
        self.managers = managers
        self._publish()
        return True

    def facts_for(self, child: str, ready: frozenset[str]) -> Facts | None:
        """Return what this child may know now: None until it may begin."""
        has_identity = self.identity is not None
        begins = may_begin(child, has_identity=has_identity, bootstrapping=self.bootstrapping, ready=ready)
        if not begins:
            return None
        return (
            msgspec.structs.replace(self._facts, unlock_keys=self.unlock_keys) if child in MAY_UNLOCK else self._facts
        )

    def _publish(self) -> None:
        self._facts = self._form()
        self.changes.announce()

    def _form(self) -> Facts:
        identity = self.identity
        managers = self.managers
        if identity is not None and self.role is Role.MANAGER:
            me = ManagerPeer(node_id=NodeId(identity.node_id), addr=self._remote_addr, certificate=identity.certificate)
            managers = (*(peer for peer in managers if peer.node_id != me.node_id), me)
        return Facts(
            node_id=NodeId(identity.node_id if identity else ""),
            cluster_id=ClusterId(identity.cluster_id if identity else ""),
            role=self.role or Role.MANAGER,
            certificates_dir=str(self._certificates),
            identity_serial=self._serial,
            not_after=identity.not_after if identity else 0.0,
            remote_addr=self._remote_addr,
            managers=managers,
        )
