"""Reading the state: what planners and handlers see. Valid until the next transaction is applied or absorbed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from services.kit.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId, VolumeId
from services.kit.model.objects import Cluster, Config, Network, Node, Secret, Service, SpecVersion, Task, Volume


class View(Protocol):
    """A consistent picture of the store. Iteration orders are deterministic (order of creation)."""

    @property
    def version(self) -> int:
        """Number of transactions in this picture."""

    @property
    def cluster(self) -> Cluster | None:
        """The cluster, None until the first leader has made it."""

    @property
    def nodes(self) -> Mapping[NodeId, Node]:
        """All nodes."""

    @property
    def services(self) -> Mapping[ServiceId, Service]:
        """All services."""

    @property
    def tasks(self) -> Mapping[TaskId, Task]:
        """All tasks."""

    @property
    def secrets(self) -> Mapping[SecretId, Secret]:
        """All secrets."""

    @property
    def configs(self) -> Mapping[ConfigId, Config]:
        """All configs."""

    @property
    def networks(self) -> Mapping[NetworkId, Network]:
        """All networks."""

    @property
    def volumes(self) -> Mapping[VolumeId, Volume]:
        """All cluster volumes."""

    def spec(self, service: ServiceId, version: int) -> SpecVersion | None:
        """The template of a service's version."""

    def specs_of(self, service: ServiceId) -> Mapping[int, SpecVersion]:
        """All stored templates of a service, by version."""

    def service_named(self, name: str) -> Service | None:
        """The service with this name, whatever its case."""

    def tasks_of_service(self, service: ServiceId) -> Mapping[TaskId, Task]:
        """Tasks of a service, live and ended."""

    def tasks_of_node(self, node: NodeId) -> Mapping[TaskId, Task]:
        """Tasks that were given to a node, live and ended."""
