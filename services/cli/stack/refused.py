"""Keys of the Compose format that swarmbus knows and does not take, each with its reason. A key that stands nowhere is unknown."""

from __future__ import annotations

from collections.abc import Mapping

_NAMESPACES = "a task has the namespaces that its driver gives it"
_KERNEL_CPU = "limit processors with deploy.resources.limits.cpus"
_LINKS = "services of one network find one another by name: name it under networks"
_DEVICES = "reserve countable things with deploy.resources.reservations.generic_resources"

TOP: Mapping[str, str] = {
    "include": "give several files with -c, they are merged in order",
    "models": "swarmbus runs no models of its own",
}
SERVICE: Mapping[str, str] = {
    "annotations": "use labels",
    "attach": "a swarm has no terminal to attach to",
    "blkio_config": "no driver can enforce it",
    "build": "swarmbus builds no images: build it, push it to a registry and name it with image",
    "cgroup": _NAMESPACES,
    "cgroup_parent": "each task has a control group of its own",
    "container_name": "every task has a name of its own: use the name of the service",
    "cpu_count": _KERNEL_CPU,
    "cpu_percent": _KERNEL_CPU,
    "cpu_period": _KERNEL_CPU,
    "cpu_quota": _KERNEL_CPU,
    "cpu_rt_period": _KERNEL_CPU,
    "cpu_rt_runtime": _KERNEL_CPU,
    "cpu_shares": "reserve processors with deploy.resources.reservations.cpus",
    "cpuset": "tasks are not pinned to processors",
    "credential_spec": "it is for Windows",
    "develop": "swarmbus builds no images",
    "device_cgroup_rules": _DEVICES,
    "devices": _DEVICES,
    "domainname": "write the whole name into hostname",
    "expose": "take it out: what other services and users reach is in ports",
    "external_links": _LINKS,
    "gpus": _DEVICES,
    "ipc": _NAMESPACES,
    "links": _LINKS,
    "mac_address": "it is the engine's to choose",
    "models": "swarmbus runs no models of its own",
    "pid": _NAMESPACES,
    "post_start": "nothing is run beside a task: do it in its command",
    "pre_stop": "nothing is run beside a task: do it when it gets its stop_signal",
    "privileged": "name the capabilities with cap_add",
    "provider": "swarmbus runs services itself",
    "pull_policy": "an image is pulled when the node does not have it; name a digest to be exact",
    "runtime": "a node's engine has one runtime",
    "shm_size": "mount a tmpfs at /dev/shm with tmpfs or volumes",
    "storage_opt": "it is a setting of the engine",
    "use_api_socket": "a task that may rule the swarm gets its socket by a bind mount",
    "userns_mode": _NAMESPACES,
    "uts": _NAMESPACES,
    "volumes_from": "name a volume that both services mount",
}
DEPLOY_RESOURCES: Mapping[str, str] = {"devices": "reserve countable things with generic_resources"}
PORT: Mapping[str, str] = {
    "host_ip": "a published port is answered by every node; name addresses with x-ingress: {address: ADDRESS}",
}
