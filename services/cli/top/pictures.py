"""Pictures of the swarm, one at once and one after each change; what the screen draws."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from services.cli.top.scene import Picture
from services.client.client import Client
from services.client.following import follow
from services.kit.runtime.clock import Clock
from services.web.core.picture import picture

SETTLE_S = 0.15
"""Changes that follow one another so quickly make one picture."""
PACE_S = 1.0
"""But while changes never pause there is a picture this often."""
_TABLES = ("node", "service", "task")


async def picture_of(client: Client) -> Picture:
    """Return the swarm as it is now, without a leader as well."""
    nodes, services = await client.nodes.list(stale=True), await client.services.list(stale=True)
    tasks = await client.tasks.list_with_specs(stale=True)
    statuses = await client.services.statuses(stale=True) if services else ()
    return picture(nodes, services, statuses, tasks.tasks, tasks.specs)


async def pictures(client: Client, clock: Clock) -> AsyncGenerator[Picture, None]:
    """Yield pictures until closed; raises a SwarmError when nobody answers any more."""
    async with follow(client, tables=_TABLES) as follower:
        await follower.next()
        while True:
            yield await picture_of(client)
            await follower.next()
            latest = clock.monotonic() + PACE_S
            while clock.monotonic() < latest and await follower.next(timeout_s=SETTLE_S) is not None:
                continue
