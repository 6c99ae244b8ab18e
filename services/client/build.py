"""Building a ServiceSpec in one call, for the common cases. Called by users of the client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from services.client import text
from services.kit.errors import InvalidArgument, Problem
from services.kit.model.specs import (
    Annotations,
    ContainerSpec,
    EndpointSpec,
    Global,
    Placement,
    PortConfig,
    Replicated,
    ResourceRequirements,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)


def service_spec(
    name: str,
    *,
    command: Iterable[str] = (),
    image: str = "",
    replicas: int | None = 1,
    driver: str = "",
    ports: Iterable[str | PortConfig] = (),
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    constraints: Iterable[str] = (),
    limits: Resources = Resources(),
    reservations: Resources = Resources(),
    restart: RestartPolicy = RestartPolicy(),
    update: UpdateConfig = UpdateConfig(),
) -> ServiceSpec:
    """Return the spec of a service.

    ``replicas=None`` makes it global: one task on every node that fits. Without ``driver``, one with an image runs under docker
    and one without under the process driver. Ports are written as for swarmctl, ``"8080:80"``. With an image, ``command`` replaces
    the image's own command; its entry point stays. Raises InvalidArgument.

    >>> spec = service_spec("web", command=("python3", "-m", "http.server", "{{.Task.Port}}"), ports=["8080:80"], replicas=3)
    >>> spec.task.driver, spec.endpoint.ports[0].published_port
    ('process', 8080)
    """
    words = tuple(command)
    chosen = driver or ("docker" if image else "process")
    if chosen == "process" and image:
        problem = Problem(
            path="image", reason="the process driver runs no images", value=image, hint="give a command only"
        )
        raise InvalidArgument.of((problem,))
    container = ContainerSpec(
        image=image,
        command=() if image else words,
        args=words if image else (),
        env=tuple(f"{key}={value}" for key, value in (env or {}).items()),
    )
    return ServiceSpec(
        annotations=Annotations(name=name, labels=dict(labels or {})),
        mode=Global() if replicas is None else Replicated(replicas=replicas),
        task=TaskSpec(
            driver=chosen,
            container=container,
            resources=ResourceRequirements(limits=limits, reservations=reservations),
            restart=restart,
            placement=Placement(constraints=tuple(constraints)),
        ),
        endpoint=EndpointSpec(ports=tuple(p if isinstance(p, PortConfig) else text.port(p, "ports") for p in ports)),
        update=update,
    )
