"""
Devices: what a push does to them, and what a person sees then.

Shared by the local FCM, the local APNs and the local push service. What the providers and the systems do follows their
documentation, named at each rule; what our app does follows docs/push.md.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# FCM keeps so many messages without a collapse key for a device that is away; one more, and it throws all away. Of
# those with one it keeps so many keys.
# https://firebase.google.com/docs/cloud-messaging/customize-messages/collapsible-message-types
FCM_STORED = 100
FCM_COLLAPSE_KEYS = 4
# FCM delays those with a collapse key beyond so many to one device, and lets one more through in so many seconds.
# https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas
FCM_COLLAPSIBLE_BURST = 20
FCM_COLLAPSIBLE_SECONDS = 180.0
# https://firebase.google.com/docs/cloud-messaging/customize-messages/setting-message-lifespan
FCM_DEFAULT_TTL_SECONDS = 28 * 86_400
# The system allows two or three.
# https://developer.apple.com/documentation/usernotifications/pushing-background-updates-to-your-app
BACKGROUND_PUSHES_AN_HOUR = 3

HOUR = 3_600.0


class Clock:
    """The time of services and devices; tests move it ahead."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self._ahead

    def move(self, seconds: float) -> None:
        """Let so much time pass."""
        self._ahead += seconds


@dataclass(kw_only=True)
class Notification:
    """One entry on the screen."""

    title: str
    body: str
    is_silent: bool = False
    # Of what it tells; a summary tells of several.
    conversations: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A push as its service hands it to a device."""

    data: Mapping[str, Any]
    # Android: collapse key; Apple: collapse id; web: topic. Empty: none.
    collapse: str = ""
    expires_at: float
    # Android: of high priority.
    is_urgent: bool = True
    # Apple's only: what kind of push, and its dictionary.
    push_type: str = ""
    aps: Mapping[str, Any] = field(default_factory=dict)
    # As it came, for tests that look at the wire.
    message: Any = None


class Phone:
    """
    A device that may be offline, or doze. ``shown``, ``badge``, ``sounds`` and ``calls`` are what its owner notices.

    The kind of push that it gets says what it is: pushes for Android have neither ``aps`` nor come from a browser's
    service (``is_browser``).
    """

    def __init__(self, clock: Clock | None = None, *, is_browser: bool = False) -> None:
        self.clock = clock or Clock()
        self.received: list[Any] = []
        # How often it made itself heard, and the calls that rang.
        self.sounds = 0
        self.calls: list[Mapping[str, Any]] = []
        # What never arrived.
        self.expired = 0
        self.replaced = 0
        self.throttled = 0
        self.discarded = 0
        self._badge: int | None = None
        self._screen: dict[str, Notification] = {}
        self._newest: dict[str, int] = {}
        self._waiting: list[Arrival] = []
        # What FCM lets through later, the last of each collapse key.
        self._delayed: dict[str, Arrival] = {}
        self._background_pushes: list[float] = []
        self._collapsible_left = float(FCM_COLLAPSIBLE_BURST)
        self._collapsible_at = self.clock()
        self._is_browser = is_browser
        self._is_offline = False
        self._is_dozing = False

    # --- what a person sees

    @property
    def notifications(self) -> dict[str, Notification]:
        """What is on the screen, by tag (or collapse id)."""
        self._let_through()
        return dict(self._screen)

    @property
    def shown(self) -> list[tuple[str, str]]:
        """Title and body of each notification on the screen."""
        return [(one.title, one.body) for one in self.notifications.values()]

    @property
    def badge(self) -> int | None:
        """The number beside the app."""
        self._let_through()
        return self._badge

    def dismiss(self) -> None:
        """Its owner wipes the screen."""
        self._screen.clear()

    # --- where it is

    def offline(self) -> None:
        """Reach no service, until ``online``."""
        self._is_offline = True

    def doze(self) -> None:
        """
        Lie still: what has normal priority waits until ``online``, what has high priority arrives.

        https://firebase.google.com/docs/cloud-messaging/android-message-priority
        """
        self._is_dozing = True

    def online(self, at: float | None = None) -> None:
        """Take what has waited and still lives, now or at that moment."""
        self._is_offline = self._is_dozing = False
        now = self.clock() if at is None else at
        waiting, self._waiting = self._waiting, []
        for arrival in waiting:
            if arrival.expires_at <= now:
                self.expired += 1
            else:
                self._deliver(arrival, now)

    def take(self, arrival: Arrival) -> None:
        """A service has accepted a push for this device."""
        self._let_through()
        is_for_android = not (arrival.push_type or self._is_browser)
        if self._is_offline or (self._is_dozing and is_for_android and not arrival.is_urgent):
            self._store(arrival)
        elif is_for_android and arrival.collapse:
            self.throttled += self._collapsible_left < 1
            self._delayed[arrival.collapse] = arrival
            self._let_through()
        else:
            self._deliver(arrival, self.clock())

    # --- what services do

    def _let_through(self) -> None:
        """Deliver what was delayed, as far as time allows it."""
        now = self.clock()
        refilled = self._collapsible_left + (now - self._collapsible_at) / FCM_COLLAPSIBLE_SECONDS
        self._collapsible_left, self._collapsible_at = min(refilled, FCM_COLLAPSIBLE_BURST), now
        while self._delayed and self._collapsible_left >= 1 and not self._is_offline:
            self._collapsible_left -= 1
            self._deliver(self._delayed.pop(next(iter(self._delayed))), now)

    def _store(self, arrival: Arrival) -> None:
        if arrival.push_type:
            self._store_at_apple(arrival)
        elif self._is_browser:
            self._store_under_topic(arrival)
        else:
            self._store_at_fcm(arrival)

    def _store_at_apple(self, arrival: Arrival) -> None:
        # What expires at 0 is not stored; of the rest one is, for each app. Which one is left to chance: here the
        # newest, so that a test does not depend on luck.
        # https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
        if arrival.expires_at == 0:
            self.expired += 1
            return
        self.replaced += len(self._waiting)
        self._waiting = [arrival]

    def _store_under_topic(self, arrival: Arrival) -> None:
        # https://www.rfc-editor.org/rfc/rfc8030#section-5.4
        self._replace(lambda waiting: bool(arrival.collapse) and waiting.collapse == arrival.collapse)
        self._waiting.append(arrival)

    def _store_at_fcm(self, arrival: Arrival) -> None:
        if arrival.collapse:
            self._replace(lambda waiting: waiting.collapse == arrival.collapse)
            keys = {waiting.collapse for waiting in self._waiting if waiting.collapse}
            if len(keys) >= FCM_COLLAPSE_KEYS:
                # Which of them stays is not said; a test that gets here has too many.
                self.discarded += 1
                return
        elif sum(not waiting.collapse for waiting in self._waiting) >= FCM_STORED:
            self.discarded += len(self._waiting) + 1
            self._waiting.clear()
            return
        self._waiting.append(arrival)

    def _replace(self, is_replaced: Callable[[Arrival], bool]) -> None:
        kept = [waiting for waiting in self._waiting if not is_replaced(waiting)]
        self.replaced += len(self._waiting) - len(kept)
        self._waiting = kept

    def _deliver(self, arrival: Arrival, now: float) -> None:
        if arrival.push_type == "background" and self._is_throttled(now):
            self.throttled += 1
            return
        self.received.append(arrival.message)
        if arrival.push_type == "voip":
            # The app has to report the call to the system at once, and the system rings.
            # https://developer.apple.com/documentation/pushkit/responding-to-voip-notifications-from-pushkit
            if arrival.data["call"] not in [call["call"] for call in self.calls]:
                self.calls.append(arrival.data)
        elif arrival.push_type == "background":
            self._run_app(arrival.data)
        elif arrival.aps:
            self._show_by_system(arrival)
        else:
            self._show_by_app(arrival.data)

    def _is_throttled(self, now: float) -> bool:
        self._background_pushes = [at for at in self._background_pushes if now - at < HOUR]
        if len(self._background_pushes) >= BACKGROUND_PUSHES_AN_HOUR:
            return True
        self._background_pushes.append(now)
        return False

    # --- what Apple's system does

    def _show_by_system(self, arrival: Arrival) -> None:
        aps = arrival.aps
        # A notification with the same collapse id takes the place of the one before. An alert without a sound makes
        # none; a passive one neither lights the screen.
        # https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
        # https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification
        is_silent = "sound" not in aps or aps.get("interruption-level") == "passive"
        self._show(
            arrival.collapse, aps["alert"]["title"], aps["alert"]["body"], is_silent, _conversations(arrival.data)
        )
        self._badge = aps.get("badge", self._badge)
        if aps.get("mutable-content"):
            # The app's service extension runs before it is shown.
            # https://developer.apple.com/documentation/usernotifications/modifying-content-in-newly-delivered-notifications
            self._clear(arrival.data)

    # --- what our app does (docs/push.md)

    def _run_app(self, data: Mapping[str, Any]) -> None:
        """In the background: take off the screen what was read elsewhere, and set the badge."""
        self._clear(data)
        self._badge = int(data["badge"]) if "badge" in data else self._badge

    def _show_by_app(self, data: Mapping[str, Any]) -> None:
        """Android, and a browser's service worker: they get nothing but data, and build the notification."""
        self._run_app(data)
        if data["type"] == "clear":
            return
        tag = _tag(data)
        if data["type"] == "call" and tag not in self._screen:
            self.calls.append(data)
        if self._is_news(data):
            self._show(tag, data["title"], data["body"], False, _conversations(data))
        elif data.get("silent") and tag in self._screen:
            self._show(tag, data["title"], data["body"], True, _conversations(data))
        elif self._is_browser and tag not in self._screen:
            # A push that shows nothing makes browsers show a notification of their own, so the worker shows it anyway.
            # https://w3c.github.io/push-api/#dom-pushsubscriptionoptions-uservisibleonly
            self._show(tag, data["title"], data["body"], True, _conversations(data))

    def _is_news(self, data: Mapping[str, Any]) -> bool:
        """Whether it tells of a newer message than the conversation's last one, or was never shown."""
        if data.get("silent"):
            return False
        name = data["conversation"] if data["type"] == "message.sent" else data["push_id"]
        seq = int(data.get("seq", 0))
        is_news = seq > self._newest.get(name, -1)
        self._newest[name] = max(seq, self._newest.get(name, -1))
        return is_news

    def _show(self, tag: str, title: str, body: str, is_silent: bool, conversations: frozenset[str]) -> None:
        self._screen[tag] = Notification(title=title, body=body, is_silent=is_silent, conversations=conversations)
        self.sounds += not is_silent

    def _clear(self, data: Mapping[str, Any]) -> None:
        """A notification goes when everything that it tells of was read."""
        read = frozenset(_list(data.get("clear")))
        for tag, notification in list(self._screen.items()):
            left = notification.conversations - read
            if left:
                notification.conversations = left
            elif notification.conversations:
                del self._screen[tag]


def from_fcm(message: Mapping[str, Any], now: float) -> Arrival:
    """What FCM hands to a device of the platform that the message has a block for."""
    data = message.get("data", {})
    if apns := message.get("apns"):
        return from_apns(apns["headers"], {**data, **apns["payload"]}, message)
    if android := message.get("android"):
        return Arrival(
            data=data,
            collapse=android.get("collapse_key", ""),
            expires_at=now + _seconds(android.get("ttl")),
            is_urgent=android.get("priority", "normal").lower() == "high",
            message=message,
        )
    headers = message.get("webpush", {}).get("headers", {})
    seconds = _seconds(headers.get("TTL"))
    return Arrival(data=data, collapse=headers.get("Topic", ""), expires_at=now + seconds, message=message)


def from_apns(headers: Mapping[str, str], payload: Mapping[str, Any], message: Any) -> Arrival:
    """What Apple hands to a device: the data stands beside ``aps``."""
    return Arrival(
        data={key: value for key, value in payload.items() if key != "aps"},
        collapse=headers.get("apns-collapse-id", ""),
        expires_at=float(headers["apns-expiration"]),
        push_type=headers["apns-push-type"],
        aps=payload["aps"],
        message=message,
    )


def wrong_with_apple(headers: Mapping[str, str], aps: Mapping[str, Any]) -> str | None:
    """What Apple would not take, or not handle as meant, in its own words where it has one."""
    # https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
    push_type = headers.get("apns-push-type")
    if push_type not in ("alert", "background", "voip"):
        return "InvalidPushType"
    # At most 64 bytes (sending-notification-requests-to-apns).
    if len(headers.get("apns-collapse-id", "").encode()) > 64:
        return "BadCollapseId"
    if not re.fullmatch(r"\d+", headers.get("apns-expiration", "")):
        return "BadExpirationDate"
    # 10 is an error for background pushes, and in ``aps`` they have nothing but ``content-available``.
    # https://developer.apple.com/documentation/usernotifications/pushing-background-updates-to-your-app
    allowed = {"alert": ("5", "10"), "background": ("5",), "voip": ("10",)}[push_type]
    if headers.get("apns-priority") not in allowed:
        return "BadPriority"
    if push_type == "background" and dict(aps) != {"content-available": 1}:
        return "a background push with something to show"
    if push_type == "alert" and not {"title", "body"} <= set(aps.get("alert", {})):
        return "an alert without words"
    return None


def wrong_with_web(headers: Mapping[str, str]) -> str | None:
    """What a push service would not take of a request's headers."""
    # https://www.rfc-editor.org/rfc/rfc8030#section-5.2, -5.3 and -5.4
    if not re.fullmatch(r"\d+", headers.get("TTL", "")):
        return "no TTL"
    if headers.get("Urgency", "normal") not in ("very-low", "low", "normal", "high"):
        return "no such urgency"
    if "Topic" in headers and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", headers["Topic"]):
        return "a topic of more than 32 characters of base64url"
    return None


def _tag(data: Mapping[str, Any]) -> str:
    """One notification for a conversation; one for all that a summary sums up; each call and each test for itself."""
    if data["type"] == "message.sent":
        return str(data["conversation"])
    if data["type"] == "call":
        return f"call {data['call']}"
    return "summary" if data["type"] == "summary" else str(data["push_id"])


def _conversations(data: Mapping[str, Any]) -> frozenset[str]:
    if data.get("type") == "message.sent":
        return frozenset([data["conversation"]])
    return frozenset(_list(data.get("conversations")))


def _list(text: str | None) -> Sequence[str]:
    return json.loads(text) if text else ()


def _seconds(text: str | None) -> float:
    return float(text.removesuffix("s")) if text else FCM_DEFAULT_TTL_SECONDS
