"""``/metrics``."""

from __future__ import annotations

from aiohttp import web

from services.web.core.metrics import CONTENT_TYPE, Picture, exposition
from services.web.shell.desk import Desk


class Measuring:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Count what this manager knows; without a leader as well."""
        client = self._desk.client
        secrets = [each for each in await client.secrets.list(stale=True) if each.superseded_by is None]
        configs = [each for each in await client.configs.list(stale=True) if each.superseded_by is None]
        picture = Picture(
            node_id=self._desk.node_id,
            cluster_id=(await client.clusters.get(stale=True)).id,
            nodes=await client.nodes.list(stale=True),
            services=await client.services.list(stale=True),
            tasks=await client.tasks.list(stale=True),
            secrets=len(secrets),
            configs=len(configs),
        )
        return web.Response(body=exposition(picture).encode(), headers={"Content-Type": CONTENT_TYPE})
