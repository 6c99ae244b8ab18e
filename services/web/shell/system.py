"""``/_ping``, ``/version``, ``/info``, and what only looks like an engine: its volumes."""

from __future__ import annotations

import os
import platform

from aiohttp import web

from services.kit.errors import SwarmError
from services.web.core import objects_out, versions
from services.web.shell.desk import Desk, answered

SERVER = "swarmbus"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class System:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ping(self, request: web.Request) -> web.StreamResponse:
        """Answer without asking anybody."""
        headers = {
            "Cache-Control": "no-cache, no-store, must-revalidate",
            "Pragma": "no-cache",
            "Swarm": "active/manager",
        }
        return web.Response(text="" if request.method == "HEAD" else "OK", headers=headers)

    async def version(self, request: web.Request) -> web.StreamResponse:
        """Say what answers."""
        own = (await self._desk.client.version()).version
        engine = {
            "ApiVersion": versions.written(versions.GREATEST),
            "MinAPIVersion": versions.written(versions.LEAST),
            "Os": "linux",
            "Arch": _architecture(),
            "KernelVersion": platform.release(),
            "GitCommit": "",
            "GoVersion": "",
            "BuildTime": "",
        }
        details = {**engine, "Experimental": "false"}
        component = {"Name": "Engine", "Version": own, "Details": details}
        return answered({"Platform": {"Name": SERVER}, "Components": [component], "Version": own, **engine})

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Describe the node as far as a swarm's client wants it."""
        client = self._desk.client
        own = await client.version()
        try:
            cluster, nodes = await client.clusters.get(stale=True), await client.nodes.list(stale=True)
            swarm = objects_out.swarm_info(cluster, nodes, own.node_id)
        except SwarmError as error:
            nodes = ()
            swarm = objects_out.swarm_info(None, (), own.node_id, str(error))
        here = next((node for node in nodes if node.id == own.node_id), None)
        resources = here.description.resources if here is not None else None
        return answered(
            {
                "ID": own.node_id,
                "Name": here.description.hostname if here is not None else platform.node(),
                "ServerVersion": own.version,
                "OperatingSystem": SERVER,
                "OSType": "linux",
                "OSVersion": "",
                "Architecture": platform.machine(),
                "KernelVersion": platform.release(),
                "NCPU": resources.nano_cpus // 1_000_000_000 if resources is not None else os.cpu_count() or 0,
                "MemTotal": resources.memory_bytes if resources is not None else 0,
                "Driver": "",
                "DriverStatus": [],
                "LoggingDriver": "",
                "CgroupDriver": "",
                "Plugins": {"Volume": [], "Network": [], "Authorization": None, "Log": []},
                "Containers": 0,
                "ContainersRunning": 0,
                "ContainersPaused": 0,
                "ContainersStopped": 0,
                "Images": 0,
                "Labels": [],
                "ExperimentalBuild": False,
                "LiveRestoreEnabled": False,
                "Runtimes": {},
                "DefaultRuntime": "",
                "SecurityOptions": [],
                "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": [], "Mirrors": []},
                "IndexServerAddress": "",
                "HttpProxy": "",
                "HttpsProxy": "",
                "NoProxy": "",
                "Warnings": None,
                "Swarm": swarm,
            }
        )

    async def volumes(self, request: web.Request) -> web.StreamResponse:
        """There are none in the swarm."""
        return answered({"Volumes": [], "Warnings": []})


def _architecture() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())
