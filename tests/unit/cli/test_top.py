"""``swarmctl top``: what the screen shows of a picture, as text and on a terminal without a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from textual.widgets import DataTable, RichLog, Static

from services.cli.top import scene
from services.cli.top.scene import Picture
from services.cli.top.screen import Screen
from services.kit.errors import Unavailable
from services.kit.runtime.clock import ManualClock


def node(name: str, **fields: object) -> dict[str, object]:
    plain = {"role": "manager", "leader": False, "state": "ready", "availability": "active"}
    return {"id": name, "name": name, "cpus_reserved": 0.5, "memory_reserved": 0.0, **plain, **fields}


def task(number: int, state: str = "running", *, on: str = "alpha", why: str = "") -> dict[str, object]:
    place = {"node": on, "node_name": on, "wanted": True, "since": 0.0}
    return {"id": f"t{number}", "service": "web", "slot": number, "state": state, "why": why, **place}


def picture(*tasks: dict[str, object], leader: str = "alpha", reachable: int = 1, **fields: Any) -> Picture:
    service = {"id": "s", "name": "web", "mode": "replicated", "ports": "8080→80/tcp", "runs": "web:1", "update": ""}
    return {
        "leader": leader,
        "managers": 1,
        "reachable": reachable,
        "nodes": [node("alpha", leader=True)],
        "services": [{**service, "running": len(tasks), "desired": 2}],
        "tasks": list(tasks),
        **fields,
    }


def test_the_text_says_who_leads_where_tasks_are_and_what_waits_why() -> None:
    text = "\n".join(scene.plain_lines(picture(task(1), task(2, "pending", on="", why="no node fits")), width=100))
    assert "alpha leads · 1 of 1 managers reachable · 1 nodes · 1 services · 1 tasks running" in text
    assert "cpu █████░░░░░ mem ░░░░░░░░░░  ■" in text
    assert "web.2 pending: no node fits" in text


def test_a_lost_quorum_stands_out() -> None:
    headline = scene.headline(picture(leader="", reachable=0))
    assert (headline.style, "no quorum" in headline.text) == ("bad", True)


def test_a_node_with_many_tasks_stays_on_its_line() -> None:
    many = picture(*(task(number) for number in range(500)))
    line = "".join(piece.text for piece in scene.node_line(many, many["nodes"][0], width=120))
    assert len(line) <= 120
    assert "+" in line


def test_what_changed_between_two_pictures_is_news() -> None:
    before = picture(task(1), nodes=[node("alpha"), node("beta")])
    now = picture(task(1, "failed", why="exit 3"), leader="", nodes=[node("alpha", state="down"), node("gamma")])
    assert list(scene.news(before, now)) == [
        "task web.1 failed on alpha: exit 3",
        "node alpha is down, active",
        "node gamma joined",
        "node beta was removed",
        "the leader is lost",
    ]


async def told(*shown: Picture, ends: bool = False) -> AsyncIterator[Picture]:
    for each in shown:
        yield each
    if ends:
        raise Unavailable("nobody answers any more")
    await asyncio.Event().wait()


async def why(ref: str) -> str:
    return f"{ref} waits for nothing"


def test_the_screen_draws_pictures_and_answers_keys() -> None:
    async def story() -> None:
        screen = Screen(told(picture(task(1)), picture(task(1, "failed"))), why, ManualClock())
        async with screen.run_test(size=(120, 50)) as pilot:
            await pilot.pause()
            assert "alpha leads" in str(screen.query_one("#head", Static).content)
            table = screen.query_one(DataTable)
            assert table.row_count == 1
            assert any("web.1 failed" in str(line.text) for line in screen.query_one(RichLog).lines)
            await pilot.press("enter")
            await pilot.pause()
            assert "s waits for nothing" in str(screen.query_one("#facts", Static).content)
            assert screen.query_one("#detail").has_class("open")
            await pilot.press("escape")
            assert not screen.query_one("#detail").has_class("open")
            await pilot.press("q")
        assert screen.return_value is None

    asyncio.run(story())


@pytest.mark.parametrize("size", [(40, 12), (200, 60)])
def test_the_screen_ends_with_the_reason_when_nobody_answers(size: tuple[int, int]) -> None:
    async def story() -> None:
        screen = Screen(told(picture(task(1)), ends=True), why, ManualClock())
        async with screen.run_test(size=size) as pilot:
            await pilot.pause()
        assert screen.return_value == "nobody answers any more"

    asyncio.run(story())
