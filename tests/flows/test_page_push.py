"""
The chat page as a client of Web Push, in Chromium.

A browser subscribes at its vendor's push service, which is elsewhere: that one call is answered here (``SUBSCRIBE``),
with a subscription of the local push service. From there on all is real: the page registers it, a worker encrypts and
sends, the push service decrypts and verifies, and what it read is handed to the service worker as Chromium does it.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Worker, expect
from redis import Redis

from push.vapid import public_text, read_private_key
from server.live_devices import MARKER
from tests.flows.page import choose, chromium, log_in, message, row, say, start_direct, visits
from tests.servers import Deployment, ServerProcess
from tests.webpush import Browser as Subscribed
from tests.webpush import PushService, base64url

VAPID_PRIVATE_KEY = base64url(bytes(31) + b"\x07")
VAPID_PUBLIC_KEY = public_text(read_private_key(VAPID_PRIVATE_KEY))
# Unknown to the page: what is pushed of it is unread.
CONVERSATION = str(uuid4())
ADDRESSES = count(1)
WAIT_SECONDS = 15.0
LOOK_SECONDS = 0.02

# In place of the vendor's push service: gives the subscriptions that it is given, one after the other, and keeps the
# present one as a browser does. It counts how often somebody was asked for the permission.
SUBSCRIBE = """(given) => {
  const load = () => JSON.parse(localStorage.getItem("test.subscription") ?? "null");
  const keep = (kept) => localStorage.setItem("test.subscription", JSON.stringify(kept));
  const subscription = ({ json }) => ({
    endpoint: json.endpoint,
    toJSON: () => json,
    unsubscribe: async () => (localStorage.removeItem("test.subscription"), true),
  });
  PushManager.prototype.subscribe = async ({ userVisibleOnly, applicationServerKey: key }) => {
    if (!userVisibleOnly) throw new DOMException("silent pushes", "NotAllowedError");
    const kept = load();
    if (kept && kept.key !== key) throw new DOMException("another key", "InvalidStateError");
    const taken = Number(localStorage.getItem("test.taken") ?? "0");
    if (!kept) {
      localStorage.setItem("test.taken", taken + 1);
      keep({ key, json: given[taken] });
    }
    return subscription(load());
  };
  PushManager.prototype.getSubscription = async () => load() && subscription(load());
  const ask = Notification.requestPermission.bind(Notification);
  window.asked = 0;
  Notification.requestPermission = () => (window.asked++, ask());
}"""

SHOWN = """async () => (await registration.getNotifications()).map(({ title, body, tag, silent, icon, data }) =>
  ({ title, body, tag, silent, icon, seq: data.seq }))"""

# Resolves when the service worker says that it has shown a push.
NEXT_SHOWN = """() => {
  window.nextShown = new Promise((resolve, reject) => {
    setTimeout(() => reject(new Error("nothing was shown")), 10_000);
    navigator.serviceWorker.addEventListener("message", ({ data }) => data.type === "shown" && resolve());
  });
}"""


class Vendor:
    """A push service in a thread with an event loop of its own: Playwright's is in the tests' thread."""

    def __init__(self, service: PushService) -> None:
        self._service = service
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> PushService:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._service.__aenter__(), self._loop).result(WAIT_SECONDS)
        return self._service

    def __exit__(self, *error: object) -> None:
        asyncio.run_coroutine_threadsafe(self._service.__aexit__(None, None, None), self._loop).result(WAIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """A browser with the page: its subscriptions, its service worker, and how pushes reach that."""

    def __init__(self, page: Page, deployment: Deployment, subscriptions: list[Subscribed]) -> None:
        self.page = page
        self.subscriptions = subscriptions
        self._deployment = deployment
        self._registration = ""
        # Of the page's own target, and not closed with it.
        self._session = page.context.new_cdp_session(page)

    @property
    def worker(self) -> Worker:
        """The service worker, once notifications are on."""
        (worker,) = self.page.context.service_workers
        return worker

    def turn_on(self) -> None:
        self.open_account()
        self.page.get_by_role("button", name="Turn on").click()
        expect(self.page.get_by_text("You are notified here while this page is closed.")).to_be_visible()
        self.close_account()

    def open_account(self) -> None:
        # It has its name when the page knows who is logged in.
        self.page.get_by_role("button", name=re.compile(": account$")).click()

    def close_account(self) -> None:
        self.page.get_by_role("button", name="Close").click()

    def push(self, **data: str) -> None:
        """Hand a push to the service worker, as the browser does, and wait until it is shown."""
        self.page.evaluate(NEXT_SHOWN)
        self.deliver(data)
        self.page.evaluate("() => window.nextShown")

    def deliver(self, data: dict[str, str]) -> None:
        origin = self._deployment.webs[0].url
        push = {"origin": origin, "registrationId": self._find_registration(), "data": json.dumps(data)}
        self._session.send("ServiceWorker.deliverPushMessage", push)

    def shown(self) -> list[dict[str, Any]]:
        """The notifications on the screen."""
        shown: list[dict[str, Any]] = self.worker.evaluate(SHOWN)
        return shown

    def click(self) -> None:
        """Do what a click on the only notification does; nobody may take the focus without a real one."""
        self.worker.evaluate("async () => clicked((await registration.getNotifications())[0]).catch(() => {})")

    def device(self) -> tuple[str, str, str]:
        """Platform, provider and target of this browser's device, as the server knows it."""
        install = self.page.evaluate("localStorage.getItem('roost.install')")
        with self._deployment.connect() as connection:
            found = connection.execute(
                "SELECT platform, push_provider, target FROM messaging_device WHERE install_id = %s", [install]
            ).fetchone()
        assert found is not None
        platform, provider, target = found
        return str(platform), str(provider), str(target)

    def forget_target(self) -> None:
        """What the server does with a target that its push service does not know any more."""
        install = self.page.evaluate("localStorage.getItem('roost.install')")
        with self._deployment.connect() as connection:
            connection.execute("UPDATE messaging_device SET target = '' WHERE install_id = %s", [install])

    def _find_registration(self) -> str:
        if not self._registration:
            found: list[str] = []
            self._session.on(
                "ServiceWorker.workerRegistrationUpdated",
                lambda event: found.extend(one["registrationId"] for one in event["registrations"]),
            )
            self._session.send("ServiceWorker.enable")
            until(lambda: self.page.evaluate("1") and found, "a registration")
            self._registration = found[0]
        return self._registration


def until(holds: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, f"no {what} within {WAIT_SECONDS} s"
        time.sleep(LOOK_SECONDS)


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushService]:
    with Vendor(PushService(tmp_path_factory.mktemp("vendor"))) as service:
        yield service


@pytest.fixture(scope="module")
def deployment(vendor: PushService) -> Iterator[Deployment]:
    environment = {
        "ROOST_VAPID_PRIVATE_KEY": VAPID_PRIVATE_KEY,
        "ROOST_VAPID_SUBJECT": "mailto:push@example.com",
        "ROOST_HTTP_REQUESTS_PER_MINUTE_ADDRESS": "100000",
        # Each browser comes from an address of its own: log-ins are counted by address.
        "ROOST_TRUSTED_PROXIES": "127.0.0.1",
        # People of other stories were here a moment ago.
        "ROOST_PUSH_ACTIVE_ELSEWHERE_SECONDS": "0",
    }
    with Deployment(webs=1, environment=environment) as deployment:
        deployment.manage("demo")
        deployment.add_worker(program=("-m", "tests.webpush_worker", str(vendor.folder / "certificate.pem")))
        with Redis.from_url(deployment.valkey.url) as redis:
            # For its first minute Redis cannot know who has a socket, and everybody's push waits.
            redis.set(MARKER, 0)
        yield deployment


@pytest.fixture
def web(deployment: Deployment) -> ServerProcess:
    return deployment.webs[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def enter(browser: Browser, deployment: Deployment, vendor: PushService) -> Iterator[Callable[..., Client]]:
    """``enter("alice")`` logs in with a browser that may show notifications; ``permissions=[…]`` gives others."""
    with ExitStack() as stack:

        def begin(name: str, permissions: list[str] | None = None) -> Client:
            subscriptions = [vendor.subscribe() for _ in range(2)]

            def prepare(context: BrowserContext) -> None:
                context.grant_permissions(["notifications"] if permissions is None else permissions)
                given = ",".join(one.subscription for one in subscriptions)
                context.add_init_script(f"({SUBSCRIBE})([{given}])")

            visit = stack.enter_context(visits(browser, deployment.webs[0], prepare))
            page = visit(extra_http_headers={"X-Forwarded-For": f"198.51.100.{next(ADDRESSES)}"})
            log_in(page, name)
            return Client(page, deployment, subscriptions)

        yield begin


def about(seq: int, body: str, **more: str) -> dict[str, str]:
    """A push as the server makes it."""
    ids = {"push_id": str(uuid4()), "conversation": CONVERSATION, "message": str(uuid4()), "seq": str(seq)}
    return {"type": "message.sent", **ids, "title": "Climbing", "body": body, "badge": "1", **more}


# --- on and off


def test_nobody_is_asked_before_the_button_is_pressed(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    assert alice.page.evaluate("window.asked") == 0
    assert alice.page.context.service_workers == []

    alice.turn_on()

    assert alice.page.evaluate("window.asked") == 1


def test_turning_on_registers_the_subscription_under_the_deployments_key(enter: Callable[..., Client]) -> None:
    alice = enter("alice")

    alice.turn_on()

    platform, provider, target = alice.device()
    assert (platform, provider) == ("web", "webpush")
    assert json.loads(target) == json.loads(alice.subscriptions[0].subscription)
    assert json.loads(alice.page.evaluate("localStorage['test.subscription']"))["key"] == VAPID_PUBLIC_KEY


def test_turning_off_ends_the_subscription(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(1, "hello"))

    alice.open_account()
    alice.page.get_by_role("button", name="Turn off").click()
    expect(alice.page.get_by_role("button", name="Turn on")).to_be_visible()

    assert alice.device()[2] == ""
    assert alice.page.evaluate("localStorage.getItem('test.subscription')") is None
    assert alice.shown() == []


def test_logging_out_ends_the_subscription(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()

    alice.open_account()
    alice.page.get_by_role("button", name="Log out").click()
    expect(alice.page.get_by_role("textbox", name="E-mail")).to_be_visible()

    assert alice.device()[2] == ""
    assert alice.page.evaluate("localStorage.getItem('test.subscription')") is None
    log_in(alice.page, "bob")
    alice.open_account()
    expect(alice.page.get_by_role("button", name="Turn on")).to_be_visible()


def test_what_the_browser_refuses_is_said_and_has_no_button(enter: Callable[..., Client]) -> None:
    # What is not among the permissions that are given is refused.
    alice = enter("alice", permissions=["geolocation"])

    alice.open_account()

    expect(alice.page.get_by_text("Your browser refuses notifications of this page.")).to_be_visible()
    expect(alice.page.get_by_role("button", name="Turn on")).to_have_count(0)


def test_a_push_service_that_cannot_be_reached_is_said(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.page.evaluate(
        """() => {
          PushManager.prototype.subscribe = async () => { throw new DOMException("no push service", "AbortError"); };
        }"""
    )

    alice.open_account()
    alice.page.get_by_role("button", name="Turn on").click()

    expect(alice.page.get_by_role("alert").filter(has_text="no push service")).to_be_visible()
    expect(alice.page.get_by_role("button", name="Turn on")).to_be_visible()
    assert alice.device()[2] == ""


def test_a_target_that_the_server_has_forgotten_is_told_again_on_the_next_visit(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.forget_target()

    alice.page.reload()

    until(lambda: alice.device()[2], "target")
    assert json.loads(alice.device()[2]) == json.loads(alice.subscriptions[0].subscription)


def test_a_subscription_of_another_key_is_replaced(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.page.evaluate(
        """() => {
          const kept = JSON.parse(localStorage["test.subscription"]);
          localStorage["test.subscription"] = JSON.stringify({ ...kept, key: "the one before" });
        }"""
    )

    alice.page.reload()

    second = json.loads(alice.subscriptions[1].subscription)
    until(lambda: json.loads(alice.device()[2]) == second, "second subscription")


def test_a_subscription_that_the_push_service_has_changed_is_told_to_the_server(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.forget_target()

    # The browser has made a new one already; the page asks for it.
    alice.worker.evaluate("() => subscriptionChanged({ newSubscription: {} })")

    until(lambda: alice.device()[2], "target")


def test_a_worker_without_a_new_subscription_makes_one_with_the_servers_key(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()

    options = alice.worker.evaluate(
        """async () => {
          let options = null;
          registration.pushManager.subscribe = async (given) => (options = given);
          await subscriptionChanged({ newSubscription: null });
          return options;
        }"""
    )

    assert options == {"userVisibleOnly": True, "applicationServerKey": VAPID_PUBLIC_KEY}


# --- showing


def test_a_push_is_shown_with_title_text_and_picture(enter: Callable[..., Client], web: ServerProcess) -> None:
    alice = enter("alice")
    alice.turn_on()

    alice.push(**about(1, "Ann: at six?", avatar=f"{web.url}/chat/icon.svg"))

    assert alice.shown() == [
        {
            "title": "Climbing",
            "body": "Ann: at six?",
            "tag": CONVERSATION,
            "silent": False,
            "icon": f"{web.url}/chat/icon.svg",
            "seq": "1",
        }
    ]


def test_a_newer_push_replaces_the_one_of_its_conversation_only(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(1, "first"))
    alice.push(**about(9, "elsewhere", conversation=str(uuid4())))

    alice.push(**about(2, "second"))

    assert sorted(one["body"] for one in alice.shown()) == ["elsewhere", "second"]


@pytest.mark.parametrize("seq", [1, 2])
def test_an_older_push_and_a_repeated_one_change_nothing_and_make_no_sound(
    enter: Callable[..., Client], seq: int
) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(2, "second"))

    alice.push(**about(seq, "late"))

    (one,) = alice.shown()
    assert (one["title"], one["body"], one["seq"], one["silent"]) == ("Climbing", "second", "2", True)


@pytest.mark.parametrize("seq", [1, 2])
def test_a_silent_push_replaces_what_was_edited_or_deleted(enter: Callable[..., Client], seq: int) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(2, "meet at siks"))

    # When the newest message was deleted the one before it is the newest.
    alice.push(**about(seq, "meet at six", silent="1"))

    (one,) = alice.shown()
    assert (one["body"], one["silent"]) == ("meet at six", True)


def test_of_pushes_that_come_together_the_newest_is_left(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()

    for seq in (1, 3, 2):
        alice.deliver(about(seq, f"number {seq}"))
    alice.deliver(about(1, "the end", conversation=str(uuid4())))

    until(lambda: "the end" in [one["body"] for one in alice.shown()], "end")
    assert sorted(one["body"] for one in alice.shown()) == ["number 3", "the end"]


def test_what_was_read_elsewhere_is_taken_off_the_screen(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    other, third = str(uuid4()), str(uuid4())
    alice.push(**about(1, "read elsewhere"))
    alice.push(**about(1, "read too", conversation=other))

    alice.push(**about(1, "new", conversation=third, clear=json.dumps([CONVERSATION, other])))

    assert [one["body"] for one in alice.shown()] == ["new"]


def test_a_summary_leaves_when_all_of_it_was_read_elsewhere(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    told = [str(uuid4()), str(uuid4())]
    alice.push(
        type="summary", push_id="s1", title="While it was quiet", body="3 messages", conversations=json.dumps(told)
    )

    alice.push(**about(1, "one of two", clear=json.dumps(told[:1])))
    assert {one["tag"] for one in alice.shown()} == {"summary", CONVERSATION}
    alice.push(**about(2, "both", clear=json.dumps(told)))

    assert {one["tag"] for one in alice.shown()} == {CONVERSATION}


def test_a_summary_a_call_and_a_test_have_a_place_of_their_own(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(1, "hello"))
    same = {"conversation": CONVERSATION, "badge": "1"}

    alice.push(type="summary", push_id="s1", title="While it was quiet", body="3 messages")
    alice.push(type="summary", push_id="s2", title="While it was quiet", body="5 messages")
    alice.push(type="call", push_id="c1", call="7", title="Ann", body="Incoming call", seq="0", **same)
    alice.push(type="test", push_id="t1", title="Roost", body="It works", **same)

    assert {one["tag"]: one["body"] for one in alice.shown()} == {
        CONVERSATION: "hello",
        "summary": "5 messages",
        "call 7": "Incoming call",
        "t1": "It works",
    }


def test_a_call_that_is_pushed_twice_rings_once(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    call = {"type": "call", "push_id": "c1", "call": "7", "title": "Ann", "body": "Incoming call", "seq": "0"}
    alice.push(**call)
    assert [one["silent"] for one in alice.shown()] == [False]

    alice.push(**call)

    assert [one["silent"] for one in alice.shown()] == [True]


def test_what_is_no_push_of_ours_shows_something_nevertheless(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()

    alice.push()

    assert [one["title"] for one in alice.shown()] == ["Roost"]


def test_the_badge_is_what_the_push_says(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.worker.evaluate("() => { self.badges = []; navigator.setAppBadge = async (count) => badges.push(count); }")

    alice.push(**about(1, "hello", badge="3"))
    alice.push(**about(2, "hello", badge="0"))

    assert alice.worker.evaluate("() => badges") == [3, 0]


# --- what the page has to do with it


def conversation_of(page: Page, title: str) -> str:
    return str(row(page, title).get_attribute("data-conversation"))


def test_what_somebody_looks_at_makes_no_sound(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    choose(alice.page, "Tea time")
    conversation = conversation_of(alice.page, "Tea time")

    alice.push(**about(1000, "not read yet", conversation=conversation))
    alice.push(**about(1, "not open"))

    assert {one["body"]: one["silent"] for one in alice.shown()} == {"not read yet": True, "not open": False}


def newest_seq(deployment: Deployment, conversation: str) -> int:
    with deployment.connect() as connection:
        found = connection.execute(
            "SELECT max(seq) FROM messaging_message WHERE conversation_id = %s", [conversation]
        ).fetchone()
    assert found is not None
    return int(str(found[0]))


def test_reading_takes_the_notification_away(enter: Callable[..., Client], deployment: Deployment) -> None:
    alice, bob = enter("alice"), enter("bob")
    bob.turn_on()
    choose(alice.page, "Bob")
    say(alice.page, "Read this")
    conversation = conversation_of(alice.page, "Bob")
    expect(row(bob.page, "Alice")).to_contain_text("Read this")
    bob.push(**about(newest_seq(deployment, conversation), "Read this", conversation=conversation))
    assert [one["body"] for one in bob.shown()] == ["Read this"]

    choose(bob.page, "Alice")

    until(lambda: bob.shown() == [], "empty screen")


def test_a_click_leads_an_open_page_to_the_conversation(enter: Callable[..., Client]) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(1000, "hello", conversation=conversation_of(alice.page, "Tea time")))

    alice.click()

    expect(alice.page.get_by_role("heading", name="Tea time", exact=True)).to_be_visible()
    assert alice.shown() == []


def test_a_click_without_an_open_page_opens_one(enter: Callable[..., Client], web: ServerProcess) -> None:
    alice = enter("alice")
    alice.turn_on()
    alice.push(**about(1, "hello"))
    alice.worker.evaluate("() => { clients.openWindow = async (link) => (self.opened = link); }")
    # Served from our origin, and not the page.
    alice.page.goto(f"{web.url}/health/live")

    alice.click()

    assert alice.worker.evaluate("() => opened") == f"{web.url}/?conversation={CONVERSATION}"
    assert alice.shown() == []


def test_a_click_stays_within_our_origin(enter: Callable[..., Client], web: ServerProcess) -> None:
    alice = enter("alice")
    alice.turn_on()
    elsewhere = ["https://evil.example/tea", f"{web.url}.evil.example/tea", "//evil.example/tea", "javascript:alert(1)"]
    elsewhere += [f"blob:{web.url}/4a5b", "http://["]

    def link_of(link: str) -> object:
        return alice.worker.evaluate("(data) => linkOf(data).href", about(1, "hello", link=link))

    assert link_of("/tea/1") == f"{web.url}/tea/1"
    assert link_of(f"{web.url}/tea/1?a=b#c") == f"{web.url}/tea/1?a=b#c"
    assert {link_of(link) for link in ["", *elsewhere]} == {f"{web.url}/?conversation={CONVERSATION}"}


def test_a_deep_link_opens_its_conversation_also_after_logging_in(
    enter: Callable[..., Client], web: ServerProcess
) -> None:
    alice = enter("alice")
    conversation = conversation_of(alice.page, "Tea time")

    alice.page.goto(f"{web.url}/?conversation={conversation}")
    expect(alice.page.get_by_role("heading", name="Tea time", exact=True)).to_be_visible()
    # A reload leads to where one was, not back there.
    assert alice.page.url == f"{web.url}/"
    alice.open_account()
    alice.page.get_by_role("button", name="Log out").click()
    expect(alice.page.get_by_role("textbox", name="E-mail")).to_be_visible()
    alice.page.goto(f"{web.url}/?conversation={conversation}")
    log_in(alice.page, "alice")

    expect(alice.page.get_by_role("heading", name="Tea time", exact=True)).to_be_visible()


def test_a_deep_link_to_what_does_not_exist_stays_on_the_list(enter: Callable[..., Client], web: ServerProcess) -> None:
    alice = enter("alice")

    alice.page.goto(f"{web.url}/?conversation={uuid4()}")

    expect(row(alice.page, "Tea time")).to_be_visible()
    expect(alice.page.locator("#welcome")).to_be_visible()


# --- all the way


def test_a_message_reaches_a_closed_page_and_a_click_leads_to_it(
    enter: Callable[..., Client], vendor: PushService, web: ServerProcess
) -> None:
    alice, carol = enter("alice"), enter("carol")
    carol.turn_on()
    carol.worker.evaluate("() => { clients.openWindow = async (link) => (self.opened = link); }")
    # No page is open that could show or acknowledge it; this one keeps the window.
    carol.page.goto(f"{web.url}/health/live")
    subscribed = carol.subscriptions[0]
    start_direct(alice.page, "Carol")

    say(alice.page, "Are you asleep?")

    until(lambda: any(map(subscribed.is_meant, vendor.received)), "push")
    (received,) = filter(subscribed.is_meant, vendor.received)
    assert received.claims(vendor.origin)["sub"] == "mailto:push@example.com"
    pushed = subscribed.read(received.body)
    assert (pushed["type"], pushed["title"], pushed["body"]) == ("message.sent", "Alice", "Are you asleep?")
    carol.deliver(pushed)
    until(carol.shown, "notification")
    assert [(one["title"], one["body"]) for one in carol.shown()] == [("Alice", "Are you asleep?")]
    carol.click()
    carol.page.goto(carol.worker.evaluate("() => opened"))
    expect(message(carol.page, "Are you asleep?")).to_be_visible()
