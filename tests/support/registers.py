"""Registers that users of a swarm read and write, with a history for the linearizability checker. Used by the simulator and by chaos tests.

A register is a label of a service without tasks. It is written with the version that was read, so that a write is a compare-and-set; every
value is written once only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.client.line import ControlLine
from services.kit.errors import Conflict, DeadlineExceeded, SwarmError
from services.kit.messages import control
from services.kit.model.objects import Service
from services.kit.model.specs import Annotations, Replicated, ServiceSpec, TaskSpec
from tests.support.linearizability import FOREVER, Kind, Operation

VALUE = "value"


class Registers:
    """So many registers and what has been done to them. ``now`` is any clock that all users share."""

    def __init__(self, count: int, now: Callable[[], float]) -> None:
        self.history: list[Operation] = []
        self.keys = tuple(f"register{number}" for number in range(count))
        self._now = now
        self._values = 0

    def spec(self, key: str, value: int = 0) -> ServiceSpec:
        """Return the service that is this register with this value."""
        return ServiceSpec(
            annotations=Annotations(name=key, labels={VALUE: str(value)}),
            mode=Replicated(replicas=0),
            task=TaskSpec(driver="fake"),
        )

    async def read(self, line: ControlLine, key: str) -> Service:
        """Read a register; raises SwarmError."""
        called = self._now()
        service = (await line.call(control.GET_SERVICE, control.GetRequest(ref=key))).service
        self._note(key, Kind.READ, called, value=value_of(service))
        return service

    async def write(self, line: ControlLine, key: str, *, pause_s: float = 0.0) -> bool:
        """Read a register and write it; False when somebody else was faster. Raises SwarmError."""
        service = await self.read(line, key)
        await asyncio.sleep(pause_s)
        seen = value_of(service)
        self._values += 1
        value = self._values
        request = control.UpdateServiceRequest(
            service_id=service.id, version=service.meta.version, spec=self.spec(key, value)
        )
        called = self._now()
        try:
            await line.call(control.UPDATE_SERVICE, request)
        except Conflict:
            return False
        except SwarmError as error:
            if error.details.maybe_executed or isinstance(error, DeadlineExceeded):
                self._note(key, Kind.CAS, called, value=value, expected=seen, known=False)
            raise
        except asyncio.CancelledError:
            self._note(key, Kind.CAS, called, value=value, expected=seen, known=False)
            raise
        self._note(key, Kind.CAS, called, value=value, expected=seen)
        return True

    def _note(
        self, key: str, kind: Kind, called: float, *, value: int, expected: int | None = None, known: bool = True
    ) -> None:
        returned = self._now() if known else FOREVER
        self.history.append(
            Operation(key=key, kind=kind, called=called, returned=returned, value=value, expected=expected)
        )


def value_of(service: Service) -> int:
    """Return the value that a register holds."""
    return int(service.spec.annotations.labels[VALUE])
