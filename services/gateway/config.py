"""Settings of the gateway."""

from __future__ import annotations

import os

from services.kit.bus.ports import NodePorts, node_ports
from services.kit.lifecycle.settings import ProcessSettings


class GatewaySettings(ProcessSettings, frozen=True, kw_only=True):
    """What the gateway is told by its supervisor."""

    listen_remote_api: str
    """``host:port`` of the remote API; the join door is one port above it."""
    listen_control_api: str = ""
    """Local socket for users; ``control.sock`` in the state directory when not given."""
    listen_discovery: str = ""
    """``host:port`` for metrics and discovery over plain HTTP; nothing means none."""
    listen_dns: str = ""
    """``host:port`` where the zone ``swarm.`` is answered; nothing means nowhere."""
    mesh_port: int = 0
    """Where other nodes' gateways bring connections; 0 takes any free port, which the others are told."""
    plane_workers: int = 0
    """Processes of the data plane; 0 takes half of the cores, at least one and at most four."""
    plane_orphan_s: float = 60.0
    """How long the data plane carries on alone when its gateway has died."""
    plane_drain_s: float = 4.0
    """How long open connections get when the node stops; less than the budget of a stopping process."""
    request_timeout_s: float = 10.0
    """For opening a stream through another manager, and for calls that come without a deadline."""

    claim_well_known_socket: bool = True
    """Be found by this user's clients without being named, unless another node is already."""

    @property
    def ports(self) -> NodePorts:
        """Where this node listens."""
        return node_ports(self.listen_remote_api)

    @property
    def control_socket(self) -> str:
        """Where users are served."""
        return self.listen_control_api or str(self.state_dir / "control.sock")

    @property
    def ingress_host(self) -> str:
        """Address on which published ports are opened."""
        return self.ports.remote.host

    @property
    def workers(self) -> int:
        """How many processes the data plane has."""
        return self.plane_workers or max(1, min(4, (os.cpu_count() or 1) // 2))
