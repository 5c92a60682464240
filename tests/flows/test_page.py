"""The chat page in a real browser: two people in two browser contexts, through a real web process."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from server.demo import PASSWORD
from tests.flows.page import (
    PHONE,
    choose,
    chromium,
    composer,
    log_in,
    message,
    row,
    say,
    start_direct,
    visits,
)
from tests.servers import Deployment, ServerProcess

MESSAGE_CODE = re.compile(r"^\s*([A-Z0-9]{3,}(?:-[A-Z0-9]{3,})*)\s*$", re.MULTILINE)


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    # The whole file comes from one address; the limits have tests of their own.
    with Deployment(webs=1, environment={"ROOST_HTTP_REQUESTS_PER_MINUTE_ADDRESS": "100000"}) as deployment:
        deployment.manage("demo")
        yield deployment


@pytest.fixture
def web(deployment: Deployment) -> ServerProcess:
    return deployment.webs[0]


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, web: ServerProcess) -> Iterator[Callable[..., Page]]:
    with visits(browser, web) as visit:
        yield visit


@pytest.fixture
def enter(visit: Callable[..., Page]) -> Callable[..., Page]:
    """``enter("alice")`` opens the page and logs in."""

    def begin(name: str, **options: object) -> Page:
        page = visit(**options)
        log_in(page, name)
        return page

    return begin


def test_two_people_chat(enter: Callable[..., Page]) -> None:
    alice, bob = enter("alice"), enter("bob", viewport=PHONE)
    choose(alice, "Bob")

    say(alice, "Can you hear me?")

    # One is unread from the demo conversation.
    expect(row(bob, "Alice").locator(".badge")).to_have_text("2")
    expect(message(alice, "Can you hear me?").get_by_role("img", name="Delivered")).to_be_visible()
    choose(bob, "Alice")
    expect(message(bob, "Can you hear me?")).to_be_visible()
    expect(message(alice, "Can you hear me?").get_by_role("img", name="Read")).to_be_visible()
    composer(bob).press_sequentially("Loud and")
    expect(alice.locator("#typing")).to_have_text("typing…")
    composer(bob).press_sequentially(" clear")
    composer(bob).press("Enter")
    expect(message(alice, "Loud and clear")).to_be_visible()
    expect(alice.locator("#typing")).to_have_text("")
    bob.get_by_role("button", name="Back to the list").click()
    expect(row(bob, "Alice").locator(".badge")).to_have_count(0)


def test_editing_deleting_and_replying(enter: Callable[..., Page]) -> None:
    alice, bob = enter("alice"), enter("bob")
    choose(alice, "Bob")
    choose(bob, "Alice")
    say(alice, "Meet at siks")

    message(alice, "Meet at siks").hover()
    message(alice, "Meet at siks").get_by_role("button", name="Edit").click()
    composer(alice).fill("Meet at six")
    composer(alice).press("Enter")
    expect(message(bob, "Meet at six")).to_contain_text("edited")
    message(bob, "Meet at six").hover()
    message(bob, "Meet at six").get_by_role("button", name="Reply").click()
    say(bob, "See you then")
    expect(message(alice, "See you then").locator(".quote")).to_contain_text("Meet at six")
    message(alice, "Meet at six").hover()
    message(alice, "Meet at six").get_by_role("button", name="Delete").click()

    expect(message(bob, "Meet at six")).to_have_count(0)
    expect(bob.locator(".message.deleted").last).to_contain_text("Message deleted")
    expect(message(bob, "See you then").locator(".quote")).to_contain_text("Message deleted")


def test_a_group_from_its_making_to_leaving_it(enter: Callable[..., Page]) -> None:
    alice, carol = enter("alice"), enter("carol")
    alice.get_by_role("button", name="New conversation").click()
    alice.get_by_role("tab", name="Group").click()
    alice.get_by_role("textbox", name="Name of the group").fill("Picnic")
    for name in ("Bob", "Carol"):
        alice.get_by_role("searchbox", name="Search people by name").fill(name)
        alice.get_by_role("list", name="People").get_by_role("button", name=name, exact=True).click()
    alice.get_by_role("button", name="Create group").click()
    say(alice, "Who brings the cake?")

    choose(carol, "Picnic")
    expect(message(carol, "Who brings the cake?")).to_contain_text("Alice")
    carol.get_by_role("button", name="Details").click()
    expect(carol.get_by_role("list", name="Members").get_by_role("listitem")).to_have_count(3)
    carol.get_by_role("button", name="Leave").click()
    expect(row(carol, "Picnic")).to_have_count(0)
    expect(alice.locator(".system").last).to_have_text("Carol left")
    expect(alice.locator("#thread-subtitle")).to_have_text("You, Bob")


def test_a_feed_is_followed_and_read(enter: Callable[..., Page]) -> None:
    carol, bob = enter("carol"), enter("bob")
    bob.get_by_role("button", name="New conversation").click()
    bob.get_by_role("tab", name="Feeds").click()
    bob.get_by_role("list", name="Feeds").get_by_role("listitem").filter(has_text="Release notes").get_by_role(
        "button", name="Follow"
    ).click()
    expect(bob.get_by_role("heading", name="Release notes")).to_be_visible()
    expect(composer(bob)).to_be_hidden()

    choose(carol, "Release notes")
    say(carol, "Version 1 is out")

    expect(message(bob, "Version 1 is out")).to_be_visible()
    bob.get_by_role("button", name="Unfollow").click()
    expect(row(bob, "Release notes")).to_have_count(0)


def test_history_loads_on_scrolling_up_and_stays_where_it_is(enter: Callable[..., Page]) -> None:
    alice = enter("alice")
    start_direct(alice, "Carol")
    for number in range(70):
        say(alice, f"line {number}")
    expect(message(alice, "line 69").get_by_role("img", name="Sent")).to_be_visible()
    alice.reload()
    choose(alice, "Carol")
    expect(message(alice, "line 69")).to_be_in_viewport()
    expect(message(alice, "line 5")).to_have_count(0)

    # The oldest one that is loaded: being near the top asks for those before it.
    message(alice, "line 20").scroll_into_view_if_needed()

    expect(message(alice, "line 0")).to_have_count(1)
    expect(message(alice, "line 20")).to_be_in_viewport()


def test_what_is_written_offline_is_sent_on_return(
    enter: Callable[..., Page], deployment: Deployment, web: ServerProcess
) -> None:
    alice, bob = enter("alice"), enter("bob")
    choose(alice, "Bob")
    choose(bob, "Alice")
    web.kill()
    expect(alice.get_by_text("Connecting…")).to_be_visible()

    say(alice, "Written in the dark")
    expect(message(alice, "Written in the dark").get_by_role("img", name="Sending")).to_be_visible()
    web.start().wait_ready()

    expect(message(bob, "Written in the dark")).to_have_count(1, timeout=30_000)
    expect(message(alice, "Written in the dark").get_by_role("img", name="Read")).to_be_visible(timeout=30_000)
    expect(alice.locator("#banner")).to_be_hidden()


def test_somebody_new_signs_up_with_a_code_and_says_hello(visit: Callable[..., Page], web: ServerProcess) -> None:
    page = visit(viewport=PHONE)
    page.get_by_role("button", name="Sign up").click()
    page.get_by_role("textbox", name="Name").fill("Dora")
    page.get_by_role("textbox", name="E-mail").fill("dora@example.com")
    page.get_by_role("textbox", name="Password").fill("a long way home")
    page.get_by_role("button", name="Sign up", exact=True).click()
    code = page.get_by_role("textbox", name="Code from the e-mail")
    expect(code).to_be_visible()
    code.fill("WRONG")
    page.get_by_role("button", name="Confirm").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    code.fill(MESSAGE_CODE.findall(web.log)[-1])
    page.get_by_role("button", name="Confirm").click()

    expect(page.get_by_text("No conversations yet.")).to_be_visible()
    start_direct(page, "Bob")
    say(page, "Hello, I am new here")
    expect(message(page, "Hello, I am new here").get_by_role("img", name="Sent")).to_be_visible()


def test_a_wrong_password_says_so_and_logging_out_forgets(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_role("textbox", name="E-mail").fill("alice@example.com")
    page.get_by_role("textbox", name="Password").fill("wrong")
    page.get_by_role("button", name="Log in", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("not correct")
    log_in(page, "alice")

    page.get_by_role("button", name="Alice: account").click()
    page.get_by_role("button", name="Log out").click()

    expect(page.get_by_role("textbox", name="E-mail")).to_be_visible()
    assert page.evaluate("localStorage.getItem('roost.session')") is None
    page.reload()
    expect(page.get_by_role("textbox", name="E-mail")).to_be_visible()


def test_an_ended_session_leaves_at_once(enter: Callable[..., Page]) -> None:
    here, there = enter("carol"), enter("carol")

    here.get_by_role("button", name="Carol: account").click()
    here.get_by_role("list", name="Where you are logged in").get_by_role("button", name="End").first.click()

    expect(there.get_by_text("You were logged out.")).to_be_visible()


def test_it_can_be_used_by_keyboard_alone(visit: Callable[..., Page]) -> None:
    page = visit()
    page.keyboard.type("alice@example.com")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    row(page, "Bob").focus()
    page.keyboard.press("Enter")
    expect(composer(page)).to_be_focused()
    page.keyboard.type("No mouse needed")
    page.keyboard.press("Enter")
    expect(message(page, "No mouse needed").get_by_role("img", name=re.compile("Sent|Delivered|Read"))).to_be_visible()

    page.keyboard.press("Shift+Tab")
    expect(message(page, "No mouse needed")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.locator("#context-text")).to_have_text("Editing: No mouse needed")
    page.keyboard.press("Escape")
    expect(page.locator("#context")).to_be_hidden()


def test_a_server_without_web_push_says_so(enter: Callable[..., Page]) -> None:
    alice = enter("alice")

    alice.get_by_role("button", name="Alice: account").click()

    expect(alice.get_by_text("This server sends no notifications to browsers.")).to_be_visible()
    expect(alice.get_by_role("button", name="Turn on")).to_have_count(0)


def test_the_page_is_served_strictly(visit: Callable[..., Page], web: ServerProcess) -> None:
    page = visit()

    answer = page.request.get(web.url + "/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = page.request.get(web.url + "/", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status == 304
    assert page.request.get(web.url + "/chat/../settings.py").status == 404
    worker = page.request.get(web.url + "/sw.js").headers
    assert worker["content-type"].startswith("text/javascript")
    assert "script-src" not in worker["content-security-policy"]
    assert "default-src 'none'" in worker["content-security-policy"]
