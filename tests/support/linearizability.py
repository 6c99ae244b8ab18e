"""A checker for histories of a register with reads, writes and compare-and-set, per key.

Wing and Gong's search with Lowe's memory of visited states: pick a minimal operation, see whether the model allows its answer, go on. An
operation whose outcome is unknown (a lost answer, a killed client) may take effect at any time after its call, or never.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

FOREVER = float("inf")


class Kind(StrEnum):
    """What an operation does."""

    READ = "read"
    WRITE = "write"
    CAS = "cas"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call on one key. ``returned`` is FOREVER when its outcome is unknown."""

    key: str
    kind: Kind
    called: float
    returned: float = FOREVER
    value: int | None = None
    """Read: what it saw. Write and compare-and-set: what it wanted to write."""
    expected: int | None = None
    """Compare-and-set: what had to be there."""
    succeeded: bool = True
    """Compare-and-set: what it answered."""
    client: str = ""

    @property
    def known(self) -> bool:
        """True when an answer came back."""
        return self.returned != FOREVER

    def allowed(self, register: int | None) -> tuple[bool, int | None]:
        """Tell whether this answer fits a register, and what the register holds after it."""
        match self.kind:
            case Kind.READ:
                return self.value == register, register
            case Kind.WRITE:
                return True, self.value
            case Kind.CAS:
                fits = register == self.expected
                if not self.known:
                    return True, self.value if fits else register
                return fits == self.succeeded, self.value if fits else register


@dataclass(frozen=True, slots=True)
class Violation:
    """A history that no order of effects explains."""

    key: str
    operations: tuple[Operation, ...]
    """Those around the point beyond which nothing fits."""

    def __str__(self) -> str:
        lines = [f"no linearization of key {self.key!r}; stuck among:"]
        lines += [
            f"  {op.client:>6} {op.kind:<5} [{op.called:.6f}, {op.returned:.6f}] value={op.value} expected={op.expected}"
            f" ok={op.succeeded}"
            for op in self.operations
        ]
        return "\n".join(lines)


def check(history: Iterable[Operation], *, initial: int | None = None) -> list[Violation]:
    """Return the keys whose histories are not linearizable, with the operations where the search got stuck."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        # A read without an answer says nothing.
        if operation.known or operation.kind is not Kind.READ:
            keys.setdefault(operation.key, []).append(operation)
    found = []
    for key in sorted(keys):
        stuck = _search(sorted(keys[key], key=lambda op: (op.called, op.returned)), initial)
        if stuck is not None:
            found.append(Violation(key, stuck))
    return found


def _search(operations: list[Operation], initial: int | None) -> tuple[Operation, ...] | None:
    """Depth first over (done set, register); None when an order was found, else the widest point reached."""
    must = sum(1 << index for index, op in enumerate(operations) if op.known)
    seen: set[tuple[int, int | None]] = set()
    stack: list[tuple[int, int | None]] = [(0, initial)]
    best = 0
    while stack:
        done, register = stack.pop()
        if done & must == must:
            return None
        if (done, register) in seen:
            continue
        seen.add((done, register))
        if (done & must).bit_count() > (best & must).bit_count():
            best = done
        for index in reversed(_minimal(operations, done)):
            fits, after = operations[index].allowed(register)
            if fits:
                stack.append((done | 1 << index, after))
    return tuple(operations[index] for index in _minimal(operations, best))


def _minimal(operations: list[Operation], done: int) -> list[int]:
    """Operations that may come next: called before any outstanding one returned."""
    first_return = FOREVER
    candidates = []
    for index, operation in enumerate(operations):
        if done >> index & 1:
            continue
        if operation.called > first_return:
            break
        candidates.append(index)
        first_return = min(first_return, operation.returned)
    return [index for index in candidates if operations[index].called <= first_return]
