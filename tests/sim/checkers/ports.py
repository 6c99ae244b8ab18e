"""A published port belongs to one service."""

from __future__ import annotations

from services.kit.model.objects import Service
from services.kit.model.states import PublishMode
from tests.sim.promise import Checker
from tests.sim.reference import Commit


class Ports(Checker):
    """Looks at the endpoints of all services whenever one changes."""

    promise = "a published port belongs to one service"

    def committed(self, commit: Commit) -> None:
        """Look for doubles."""
        if not any(isinstance(event.new, Service) for event in commit.events):
            return
        owners: dict[tuple[int, str], str] = {}
        for service in commit.state.services.values():
            for port in () if service.endpoint is None else service.endpoint.ports:
                if port.publish_mode is not PublishMode.INGRESS:
                    continue
                key = (port.published_port, port.protocol.value)
                if not port.published_port:
                    raise self.broken(f"service {service.id} was given an endpoint without a port")
                if key in owners:
                    raise self.broken(f"port {key[0]}/{key[1]} belongs to {owners[key]} and {service.id}")
                owners[key] = service.id
