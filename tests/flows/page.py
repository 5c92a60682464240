"""The chat page as people use it, in Chromium; what the stories about it share."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from server.demo import PASSWORD
from tests.servers import ServerProcess

# Without these Chromium cannot run as root, or talks to the world.
FLAGS = [
    f"--{name}"
    for name in (
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    )
]
DESKTOP = {"width": 1200, "height": 800}
PHONE = {"width": 390, "height": 780}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        assert not os.environ.get("CI"), ".ci/run has to install chromium"
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@contextmanager
def visits(
    browser: Browser, web: ServerProcess, prepare: Callable[[BrowserContext], object] = lambda context: None
) -> Iterator[Callable[..., Page]]:
    """``visit(**options)`` opens the page in a new, prepared context. Any error in the page fails the test."""
    problems: list[str] = []
    with ExitStack() as stack:

        def begin(**options: object) -> Page:
            context = browser.new_context(**{"viewport": DESKTOP, **options})
            stack.callback(context.close)
            prepare(context)
            page = context.new_page()
            page.set_default_timeout(10_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda message: problems.append(message.text) if is_problem(message.text) else None)
            page.goto(web.url + "/")
            return page

        yield begin
    assert problems == []


def is_problem(text: str) -> bool:
    """What the policy refused; failed requests are what some stories are about."""
    return "Content Security Policy" in text


def log_in(page: Page, name: str, password: str = PASSWORD) -> None:
    page.get_by_role("textbox", name="E-mail").fill(f"{name}@example.com")
    page.get_by_role("textbox", name="Password").fill(password)
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("button", name="New conversation")).to_be_visible()


def choose(page: Page, title: str) -> None:
    row(page, title).click()
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible()


def row(page: Page, title: str) -> object:
    """A conversation in the list."""
    return page.locator("#conversations button").filter(has=page.locator(".name", has_text=re.compile(f"^{title}$")))


def composer(page: Page) -> object:
    return page.get_by_role("textbox", name="Message", exact=True)


def say(page: Page, text: str) -> None:
    composer(page).fill(text)
    composer(page).press("Enter")


def message(page: Page, text: str) -> object:
    return page.locator(".message").filter(has=page.locator(".text", has_text=re.compile(f"^{re.escape(text)}$")))


def start_direct(page: Page, name: str) -> None:
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("searchbox", name="Search people by name").fill(name)
    page.get_by_role("list", name="People").get_by_role("button", name=name, exact=True).click()
    expect(page.get_by_role("heading", name=name, exact=True)).to_be_visible()
