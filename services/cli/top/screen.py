"""The screen: draws each picture, and tells in a list what changed. Reads only. The one module that knows textual.

Keys: tab and the arrows move, enter on a service says why it is as it is, escape goes back, q leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import DataTable, Footer, RichLog, Static

from services.cli.ages import clock_time
from services.cli.output import clean
from services.cli.top.scene import (
    SERVICE_COLUMNS,
    Picture,
    Piece,
    headline,
    news,
    node_line,
    service_row,
    waiting_lines,
)
from services.kit.errors import SwarmError
from services.kit.runtime.clock import Clock

NEWS_MAX = 500
_STYLES = {"plain": "", "good": "green", "bad": "bold red", "waiting": "yellow", "faint": "dim"}

Why = Callable[[str], Awaitable[str]]
"""Tells why a service is as it is."""


class Screen(App[str]):
    """See the module. What ``run_async`` returns is why it ended, when nobody left it."""

    CSS = """
    #head { height: 1; background: $panel; }
    .title { color: $text-muted; text-style: bold; height: 1; margin-top: 1; }
    #nodes { height: auto; max-height: 40%; }
    #services { height: 1fr; min-height: 5; }
    #waiting { height: auto; max-height: 25%; }
    #news { height: 8; }
    #detail { display: none; height: auto; max-height: 50%; border: round $accent; padding: 0 1; }
    #detail.open { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "leave"),
        Binding("escape", "shut", "back"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, pictures: AsyncIterator[Picture], why: Why, clock: Clock) -> None:
        super().__init__()
        self._pictures = pictures
        self._why = why
        self._clock = clock
        self._last: Picture | None = None

    def compose(self) -> ComposeResult:
        """Say what is where."""
        yield Static("connecting…", id="head")
        with Vertical():
            yield Static("NODES", classes="title")
            with VerticalScroll(id="nodes", can_focus=False):
                yield Static(id="grid")
            yield Static("SERVICES", classes="title")
            yield DataTable(id="services", cursor_type="row")
            yield Static("WAITING AND FAILED", classes="title")
            with VerticalScroll(id="waiting", can_focus=False):
                yield Static(id="why")
            yield Static("WHAT HAPPENED", classes="title")
            yield RichLog(id="news", max_lines=NEWS_MAX, wrap=True)
        with VerticalScroll(id="detail"):
            yield Static(id="facts")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to draw."""
        self.query_one(DataTable).add_columns(*SERVICE_COLUMNS)
        self.query_one(DataTable).focus()
        self.run_worker(self._follow(), name="pictures", exit_on_error=True)

    async def _follow(self) -> None:
        try:
            async for picture in self._pictures:
                self.draw(picture)
        except SwarmError as error:
            self.exit(str(error))

    def draw(self, picture: Picture) -> None:
        """Show a picture, and what changed since the last one."""
        self.query_one("#head", Static).update(_text([headline(picture)]))
        width = max(40, self.size.width - 2)
        grid = [_text(node_line(picture, node, width=width)) for node in picture["nodes"]]
        self.query_one("#grid", Static).update(Text("\n").join(grid))
        self._draw_services(picture)
        lines = [_text(line) for line in waiting_lines(picture)]
        self.query_one("#why", Static).update(Text("\n").join(lines) if lines else Text("nothing", "dim"))
        if self._last is not None:
            log = self.query_one(RichLog)
            for line in news(self._last, picture):
                log.write(Text(f"{clock_time(self._clock.wall())}  {clean(line)}"))
        self._last = picture

    def _draw_services(self, picture: Picture) -> None:
        table: DataTable[Text] = self.query_one(DataTable)
        held = table.cursor_row
        table.clear()
        for service in picture["services"]:
            table.add_row(*(_text([piece]) for piece in service_row(service)), key=service["id"])
        if table.row_count:
            table.move_cursor(row=min(held, table.row_count - 1), animate=False)

    async def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Say why a service is as it is."""
        try:
            said = await asyncio.wait_for(self._why(str(event.row_key.value)), 10.0)
        except (SwarmError, TimeoutError) as error:
            said = str(error) or "no answer in time"
        self.query_one("#facts", Static).update(Text(said))
        self.query_one("#detail").add_class("open")

    def action_shut(self) -> None:
        """Close what was opened."""
        self.query_one("#detail").remove_class("open")
        self.query_one(DataTable).focus()


def _text(pieces: Iterable[Piece]) -> Text:
    return Text.assemble(*((clean(piece.text), _STYLES[piece.style]) for piece in pieces), no_wrap=True)
