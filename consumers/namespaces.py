"""
Namespaces of channels: which exist beside the chat's, and what they offer and permit. Pure.

A channel's namespace is what stands before its first colon; channels without one are in the namespace ``""``. Options
have the names that users of such servers know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from models import channels

# What the chat's own channels begin with; nobody configures them.
RESERVED = ("chat", "feed")
SEPARATOR = ":"
# Users after this sign are the only ones who may subscribe, where the namespace allows such channels.
USERS = "#"

_NAME = re.compile(r"[A-Za-z0-9_.-]{2,}")
_DURATION = re.compile(r"(\d+)(ms|s|m|h)?")
_NEEDS_HISTORY = (
    "force_positioning",
    "allow_positioning",
    "force_recovery",
    "allow_recovery",
    "allow_history_for_client",
    "allow_history_for_anonymous",
    "allow_history_for_subscriber",
)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, None: 1}


class BadNamespaces(ValueError):
    """The configuration does not make sense; the text says where."""


class Namespace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The options of one namespace; without any nothing is offered and nothing permitted.

    ``history_ttl`` is a number of seconds, or text such as ``"10m"``.
    """

    presence: bool = False
    join_leave: bool = False
    force_push_join_leave: bool = False
    history_size: int = 0
    history_ttl: int | float | str = 0
    force_positioning: bool = False
    allow_positioning: bool = False
    force_recovery: bool = False
    allow_recovery: bool = False
    force_recovery_mode: Literal["stream", "cache"] = "stream"
    allowed_delta_types: list[Literal["fossil"]] = []
    delta_publish: bool = False
    allow_tags_filter: bool = False
    allow_user_limited_channels: bool = False
    channel_regex: str = ""
    allow_subscribe_for_client: bool = False
    allow_subscribe_for_anonymous: bool = False
    allow_publish_for_client: bool = False
    allow_publish_for_anonymous: bool = False
    allow_publish_for_subscriber: bool = False
    allow_history_for_client: bool = False
    allow_history_for_anonymous: bool = False
    allow_history_for_subscriber: bool = False
    allow_presence_for_client: bool = False
    allow_presence_for_anonymous: bool = False
    allow_presence_for_subscriber: bool = False

    @property
    def keeps_history(self) -> bool:
        return self.history_size > 0

    @property
    def history_seconds(self) -> float:
        return _seconds(self.history_ttl)

    @property
    def is_cache(self) -> bool:
        """Whether clients that come back want the newest publication only."""
        return self.force_recovery_mode == "cache"

    def names(self, channel: str) -> bool:
        """Whether a channel may be called so."""
        return not self.channel_regex or re.search(self.channel_regex, channel) is not None

    def may_subscribe(self, channel: str, user: str) -> bool:
        """Whether a client may subscribe without a token for it."""
        if USERS in channel:
            allowed = channel.rpartition(USERS)[2].split(",")
            return self.allow_user_limited_channels and bool(user) and user in allowed
        return self.allow_subscribe_for_client and (bool(user) or self.allow_subscribe_for_anonymous)

    def may_publish(self, user: str, *, is_subscribed: bool) -> bool:
        """Whether a client may publish."""
        return _permits(
            user,
            client=self.allow_publish_for_client,
            anonymous=self.allow_publish_for_anonymous,
            subscriber=self.allow_publish_for_subscriber and is_subscribed,
        )

    def may_read_history(self, user: str, *, is_subscribed: bool) -> bool:
        """Whether a client may ask for history."""
        return _permits(
            user,
            client=self.allow_history_for_client,
            anonymous=self.allow_history_for_anonymous,
            subscriber=self.allow_history_for_subscriber and is_subscribed,
        )

    def may_see_presence(self, user: str, *, is_subscribed: bool) -> bool:
        """Whether a client may ask who is there."""
        return _permits(
            user,
            client=self.allow_presence_for_client,
            anonymous=self.allow_presence_for_anonymous,
            subscriber=self.allow_presence_for_subscriber and is_subscribed,
        )


class Namespaces:
    """All that are configured."""

    def __init__(self, by_name: Mapping[str, Namespace]) -> None:
        self.by_name = dict(by_name)

    @classmethod
    def parse(cls, text: str) -> Namespaces:
        """
        Read the configuration, JSON from names to options; nothing is no namespace.

        Raises:
            BadNamespaces: it does not make sense.
        """
        if not text.strip():
            return cls({})
        try:
            found = msgspec.json.decode(text, type=dict[str, Namespace])
        except msgspec.MsgspecError as error:
            raise BadNamespaces(str(error)) from None
        for name, namespace in found.items():
            for complaint in (*_misnamed(name), *_contradictions(namespace)):
                raise BadNamespaces(f"namespace {name!r}: {complaint}")
        return cls(found)

    def find(self, channel: str) -> Namespace | None:
        """The namespace of a channel that is not the chat's; None if there is none."""
        name, separator, _ = channel.partition(SEPARATOR)
        return self.by_name.get(name if separator else "")


def is_chat(channel: str) -> bool:
    """Whether a channel is the chat's own: a conversation, a feed, or a person."""
    return channel.startswith((channels.CHAT, channels.FEED, channels.PERSONAL))


def _permits(user: str, *, client: bool, anonymous: bool, subscriber: bool) -> bool:
    return subscriber or (client and bool(user)) or (anonymous and not user)


def _misnamed(name: str) -> list[str]:
    if name in RESERVED:
        return ["the name belongs to the chat"]
    if name and not _NAME.fullmatch(name):
        return ["a name has two or more letters, digits, dots, dashes and underscores"]
    return []


def _contradictions(namespace: Namespace) -> list[str]:
    """What makes no sense together, in words for the operator."""
    found = []
    try:
        seconds = namespace.history_seconds
    except ValueError:
        return [f"history_ttl is no duration: {namespace.history_ttl!r}"]
    if namespace.history_size < 0 or (namespace.history_size > 0) != (seconds > 0):
        found.append("history_size and history_ttl have to be positive together")
    found += [
        f"{option} needs history"
        for option in _NEEDS_HISTORY
        if getattr(namespace, option) and not namespace.keeps_history
    ]
    if namespace.is_cache and not (namespace.force_recovery or namespace.allow_recovery):
        found.append("force_recovery_mode needs recovery")
    if namespace.delta_publish and not namespace.allowed_delta_types:
        found.append("delta_publish needs allowed_delta_types")
    if namespace.force_push_join_leave and not namespace.join_leave:
        found.append("force_push_join_leave needs join_leave")
    found += [
        f"{option} needs presence"
        for option in ("allow_presence_for_client", "allow_presence_for_anonymous", "allow_presence_for_subscriber")
        if getattr(namespace, option) and not namespace.presence
    ]
    if namespace.allow_subscribe_for_anonymous and not namespace.allow_subscribe_for_client:
        found.append("allow_subscribe_for_anonymous needs allow_subscribe_for_client")
    try:
        re.compile(namespace.channel_regex)
    except re.error as error:
        found.append(f"channel_regex is no regular expression: {error}")
    return found


def _seconds(duration: int | float | str) -> float:
    if not isinstance(duration, str):
        return float(duration)
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(duration)
    return int(match[1]) * _SECONDS[match[2]]
