"""What the screen shows of a picture of the swarm: lines and rows, without a terminal. The picture is the page's (``services.web.core.picture``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Picture = Mapping[str, Any]
"""As JSON: nodes, services, tasks, and who leads."""

BAR_CELLS = 10
SQUARE = "■"
_GOOD = frozenset({"running", "complete"})
_BAD = frozenset({"failed", "rejected", "orphaned"})


class Piece(NamedTuple):
    """Some text and how it stands out: good, bad, waiting, faint or plain."""

    text: str
    style: str = "plain"


def headline(picture: Picture) -> Piece:
    """Return who leads and how much there is."""
    managers, reachable = picture["managers"], picture["reachable"]
    quorum = reachable > managers / 2
    running = sum(task["state"] == "running" for task in picture["tasks"])
    leads = f"{picture['leader']} leads" if picture["leader"] else "no leader"
    said = (
        f"{leads} · {reachable} of {managers} managers reachable{'' if quorum else ', no quorum'} · "
        f"{len(picture['nodes'])} nodes · {len(picture['services'])} services · {running} tasks running"
    )
    return Piece(said, "good" if quorum and picture["leader"] else "bad")


def node_line(picture: Picture, node: Mapping[str, Any], *, width: int) -> list[Piece]:
    """Return a node: name, role, state, how much is reserved, and a square for each task that shall be there."""
    well = node["state"] == "ready" and node["availability"] == "active"
    state = node["state"] if node["availability"] == "active" else f"{node['state']}, {node['availability']}"
    pieces = [
        Piece(f"{node['name'][:16]:<17}"),
        Piece(f"{'leader' if node['leader'] else node['role']:<8}", "faint"),
        Piece(f"{state:<16}", "good" if well else "waiting" if node["state"] == "ready" else "bad"),
        Piece(f"cpu {bar(node['cpus_reserved'])} mem {bar(node['memory_reserved'])}  ", "faint"),
    ]
    tasks = [task for task in picture["tasks"] if task["node"] == node["id"] and task["wanted"]]
    room = max(1, (width - sum(len(piece.text) for piece in pieces)) // len(SQUARE))
    shown = tasks if len(tasks) <= room else tasks[: max(0, room - 6)]
    pieces += [Piece(SQUARE, style_of(task["state"])) for task in shown]
    if len(tasks) > len(shown):
        pieces.append(Piece(f" +{len(tasks) - len(shown)}", "faint"))
    return pieces


def bar(part: float) -> str:
    """Return a share of a whole as a bar of ten cells."""
    full = min(BAR_CELLS, round(part * BAR_CELLS))
    return "█" * full + "░" * (BAR_CELLS - full)


def style_of(state: str) -> str:
    """Return how a task's state stands out."""
    return "good" if state in _GOOD else "bad" if state in _BAD else "waiting"


SERVICE_COLUMNS = ("NAME", "MODE", "RUNNING", "PORTS", "UPDATE", "RUNS")


def service_row(service: Mapping[str, Any]) -> list[Piece]:
    """Return a service's cells."""
    full = service["running"] >= service["desired"]
    return [
        Piece(service["name"]),
        Piece(service["mode"], "faint"),
        Piece(f"{service['running']}/{service['desired']}", "good" if full else "waiting"),
        Piece(service["ports"]),
        Piece(service["update"]),
        Piece(service["runs"], "faint"),
    ]


def waiting_lines(picture: Picture) -> Iterator[list[Piece]]:
    """Yield what waits or fails, and why."""
    for task in picture["tasks"]:
        if task["wanted"] and task["why"]:
            name = f"{task['service']}.{task['slot'] or task['node_name']}"
            yield [Piece(f"{name} {task['state']}: ", style_of(task["state"])), Piece(task["why"])]


def news(before: Picture, now: Picture) -> Iterator[str]:
    """Yield what changed from one picture to the next."""
    old_tasks = {task["id"]: task for task in before["tasks"]}
    for task in now["tasks"]:
        was = old_tasks.get(task["id"])
        if was is None or was["state"] != task["state"]:
            where = f" on {task['node_name']}" if task["node_name"] else ""
            why = f": {task['why']}" if task["why"] else ""
            yield f"task {task['service']}.{task['slot'] or task['node_name']} {task['state']}{where}{why}"
    yield from _news_of_nodes(before["nodes"], now["nodes"])
    if before["leader"] != now["leader"]:
        yield f"{now['leader']} leads" if now["leader"] else "the leader is lost"


def _news_of_nodes(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    old = {node["id"]: node for node in before}
    for node in now:
        was = old.pop(node["id"], None)
        if was is None:
            yield f"node {node['name']} joined"
        elif (was["state"], was["availability"]) != (node["state"], node["availability"]):
            yield f"node {node['name']} is {node['state']}, {node['availability']}"
    for gone in old.values():
        yield f"node {gone['name']} was removed"


def plain_lines(picture: Picture, *, width: int) -> Iterator[str]:
    """Yield the whole scene as text, for where there is no screen."""
    yield headline(picture).text
    yield ""
    for node in picture["nodes"]:
        yield "".join(piece.text for piece in node_line(picture, node, width=width)).rstrip()
    rows = [[piece.text for piece in service_row(service)] for service in picture["services"]]
    widths = [max(len(row[column]) for row in (SERVICE_COLUMNS, *rows)) for column in range(len(SERVICE_COLUMNS))]
    yield ""
    for row in (list(SERVICE_COLUMNS), *rows):
        yield "   ".join(f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True)).rstrip()
    waiting = ["".join(piece.text for piece in line) for line in waiting_lines(picture)]
    if waiting:
        yield ""
        yield from waiting
