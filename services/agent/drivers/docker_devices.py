"""Devices and security settings of a container as the Docker engine is told of them. Pure; used by ``docker_spec``.

An entry of ``container.devices`` is one of

    /dev/fuse   /dev/sda:/dev/xvda   /dev/sda:/dev/xvda:r      a device file, its path in the container, and rights out of r, w and m
    vendor.com/class=name                                      a CDI device
    gpus=all   gpus=2   gpus=device:0,3                        GPUs, as many or these, by the engine's NVIDIA runtime
"""

from __future__ import annotations

import json

from services.agent.drivers.api import Rejected
from services.kit.model.specs import Privileges

Json = dict[str, object]
GPUS = "gpus="
_RIGHTS = frozenset("rwm")


def is_cdi(device: str) -> bool:
    """Tell whether an entry names a CDI device."""
    return not device.startswith(("/", GPUS)) and "/" in device and "=" in device


def read_device(device: str) -> Json:
    """Return the mapping of a device file or the request for others; raises Rejected."""
    if is_cdi(device):
        return {"Driver": "cdi", "DeviceIDs": [device]}
    if device.startswith(GPUS):
        return _gpus(device.removeprefix(GPUS), device)
    path, *rest = device.split(":")
    inside, rights = (*rest, "", "")[:2]
    if inside and not inside.startswith("/"):
        inside, rights = "", inside
    if not path.startswith("/") or len(rest) > 2 or not _RIGHTS.issuperset(rights):
        raise Rejected(f"container.devices: {device!r} is not PATH[:PATH][:rwm], a CDI name or {GPUS}…")
    return {"PathOnHost": path, "PathInContainer": inside or path, "CgroupPermissions": rights or "rwm"}


def device_config(devices: tuple[str, ...]) -> Json:
    """Return the engine's settings for all entries."""
    read = [read_device(device) for device in devices]
    config: Json = {
        "Devices": [each for each in read if "PathOnHost" in each],
        "DeviceRequests": [each for each in read if "PathOnHost" not in each],
    }
    return {name: entries for name, entries in config.items() if entries}


def security_options(privileges: Privileges) -> list[str]:
    """Return the engine's security options; raises Rejected for what contradicts itself."""
    options: list[str] = []
    if privileges.no_new_privileges:
        options.append("no-new-privileges")
    labels = {
        "user": privileges.selinux_user,
        "role": privileges.selinux_role,
        "type": privileges.selinux_type,
        "level": privileges.selinux_level,
    }
    if privileges.selinux_disable and any(labels.values()):
        raise Rejected("container.privileges: SELinux is disabled and has labels")
    options += ["label=disable"] if privileges.selinux_disable else [f"label={k}:{v}" for k, v in labels.items() if v]
    options += _seccomp(privileges)
    match privileges.apparmor_mode:
        case "default" | "":
            return options
        case "disabled" | "unconfined":
            return [*options, "apparmor=unconfined"]
        case profile:
            return [*options, f"apparmor={profile}"]


def _seccomp(privileges: Privileges) -> list[str]:
    match privileges.seccomp_mode:
        case "default" | "" if not privileges.seccomp_profile:
            return []
        case "unconfined" if not privileges.seccomp_profile:
            return ["seccomp=unconfined"]
        case "custom":
            try:
                return [f"seccomp={json.dumps(json.loads(privileges.seccomp_profile))}"]
            except ValueError:
                raise Rejected("container.privileges.seccomp_profile is no JSON") from None
        case mode:
            raise Rejected(
                f"container.privileges: seccomp mode {mode!r} is not default, unconfined or custom with a profile"
            )


def _gpus(wish: str, device: str) -> Json:
    request: Json = {"Driver": "nvidia", "Capabilities": [["gpu"]]}
    if wish == "all":
        return {**request, "Count": -1}
    if wish.isdecimal() and int(wish):
        return {**request, "Count": int(wish)}
    if wish.startswith("device:") and wish != "device:":
        return {**request, "DeviceIDs": wish.removeprefix("device:").split(",")}
    raise Rejected(f"container.devices: {device!r} is not gpus=all, gpus=NUMBER or gpus=device:ID,…")
