"""The page in a real browser (Debian's Chromium, driven by Playwright): what it shows, live, by keyboard, on a phone, in the dark.

With SWARMBUS_SCREENSHOTS set to a directory it leaves its screenshots there; those in docs/ are made so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from services.kit.model.objects import Service
from services.kit.model.states import TaskState
from swarmbus import BlockingClient, service_spec
from tests.support.control_server import ControlServer
from tests.support.ports import free_remote_api
from tests.support.web_home import WebHome

CHROMIUM = shutil.which("chromium")
WAIT_MS = 15_000
pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no browser (Debian: chromium)"),
]


class Shown:
    """A swarm with two services behind a page."""

    def __init__(self, home: WebHome, address: str) -> None:
        self.home = home
        self.address = address

    def service(self, server: ControlServer, name: str) -> Service:
        found = server.state.service_named(name)
        assert found is not None
        return found


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Shown]:
    address = free_remote_api()
    home = WebHome(tmp_path, address)
    with BlockingClient(tmp_path / "control.sock") as client:
        command = ["python3", "-m", "http.server", "{{.Task.Port}}"]
        client.services.create(service_spec("web", command=command, replicas=5, ports=["8080:80"]))
        client.services.create(service_spec("cache", image="redis:7", replicas=3))
    yield Shown(home, f"http://{address}/")
    home.close()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def opened(browser: Browser, shown: Shown, *, width: int = 1200, height: int = 640, dark: bool = False) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
    page.set_default_timeout(WAIT_MS)
    page.goto(shown.address)
    expect(page.locator("#quorum")).to_contain_text("alpha leads", timeout=WAIT_MS)
    return page


def test_the_page_is_live(shown: Shown, browser: Browser) -> None:
    page = opened(browser, shown)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    expect(page.locator("#services")).to_contain_text("8080→80/tcp")
    expect(page.locator(".task.running")).to_have_count(8)
    why = "no suitable node (insufficient memory on 2 nodes)"
    shown.home.call(lambda server: server.add_task(shown.service(server, "cache"), 4, TaskState.PENDING, message=why))
    expect(page.locator("#waiting")).to_contain_text(why)
    expect(page.locator("#news")).to_contain_text("task cache.4 pending")
    shown.home.call(
        lambda server: server.set_task(
            next(iter(server.state.tasks_of_service(shown.service(server, "web").id).values())),
            TaskState.FAILED,
            error="<b>exit status 3</b>",
        )
    )
    expect(page.locator(".task.bad")).to_have_count(1)
    expect(page.locator("#waiting")).to_contain_text("<b>exit status 3</b>")
    assert not complaints


def test_a_task_is_opened_and_closed_by_keyboard(shown: Shown, browser: Browser) -> None:
    page = opened(browser, shown)
    page.locator(".task").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#facts")).to_contain_text("state: running")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()


def test_it_fits_a_phone(shown: Shown, browser: Browser) -> None:
    page = opened(browser, shown, width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_it_asks_nobody_else(shown: Shown, browser: Browser) -> None:
    page = browser.new_page()
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto(shown.address)
    expect(page.locator("#quorum")).to_contain_text("alpha leads", timeout=WAIT_MS)
    assert hosts == {shown.address.split("/")[2]}


@pytest.mark.skipif("SWARMBUS_SCREENSHOTS" not in os.environ, reason="no screenshots are asked for")
def test_screenshots_are_made(shown: Shown, browser: Browser) -> None:
    folder = Path(os.environ["SWARMBUS_SCREENSHOTS"])
    why = "no suitable node (insufficient memory on 2 nodes)"
    shown.home.call(lambda server: server.add_task(shown.service(server, "cache"), 4, TaskState.PENDING, message=why))
    opened(browser, shown).screenshot(path=folder / "page-light.png")
    opened(browser, shown, dark=True).screenshot(path=folder / "page-dark.png")
    opened(browser, shown, width=390, height=844).screenshot(path=folder / "page-phone.png")
