"""Namespaces: what may be configured, what contradicts itself, and whom an option lets do what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumers.namespaces import BadNamespaces, Namespace, Namespaces


def parse(**options: Any) -> Namespace:
    return Namespaces.parse(json.dumps({"news": options})).by_name["news"]


def test_without_configuration_there_is_none() -> None:
    assert Namespaces.parse(" ").find("news:a") is None
    assert Namespaces.parse("").find("lobby") is None


@pytest.mark.parametrize(
    ("channel", "name"),
    [("news:a", "news"), ("news:a:b", "news"), ("lobby", ""), ("", ""), ("other:a", None), ("news", ""), (":a", "")],
)
def test_what_stands_before_the_first_colon_is_the_namespace(channel: str, name: str | None) -> None:
    namespaces = Namespaces.parse('{"news": {"history_size": 1, "history_ttl": 1}, "": {}}')

    found = namespaces.find(channel)

    assert found is (None if name is None else namespaces.by_name[name])


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(60, 60.0), ("60", 60.0), ("300s", 300.0), ("10m", 600.0), ("2h", 7200.0), ("500ms", 0.5)]
)
def test_ages_are_numbers_or_text(ttl: object, seconds: float) -> None:
    assert parse(history_size=10, history_ttl=ttl).history_seconds == seconds


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "truncated"),
        ("[]", "object"),
        ('{"news": {"hystory_size": 1}}', "hystory_size"),
        ('{"news": {"presence": 1}}', "bool"),
        ('{"chat": {}}', "belongs to the chat"),
        ('{"feed": {}}', "belongs to the chat"),
        ('{"a b": {}}', "a name has"),
        ('{"n": {}}', "a name has"),
        ('{"news": {"history_size": 10}}', "positive together"),
        ('{"news": {"history_ttl": 10}}', "positive together"),
        ('{"news": {"history_size": -1, "history_ttl": 10}}', "positive together"),
        ('{"news": {"history_size": 10, "history_ttl": "soon"}}', "no duration"),
        ('{"news": {"force_recovery": true}}', "force_recovery needs history"),
        ('{"news": {"allow_recovery": true}}', "allow_recovery needs history"),
        ('{"news": {"force_positioning": true}}', "force_positioning needs history"),
        ('{"news": {"allow_history_for_client": true}}', "allow_history_for_client needs history"),
        ('{"news": {"force_recovery_mode": "cache"}}', "needs recovery"),
        ('{"news": {"force_recovery_mode": "magic"}}', "magic"),
        ('{"news": {"delta_publish": true}}', "needs allowed_delta_types"),
        ('{"news": {"allowed_delta_types": ["xdelta"]}}', "xdelta"),
        ('{"news": {"force_push_join_leave": true}}', "needs join_leave"),
        ('{"news": {"allow_presence_for_client": true}}', "needs presence"),
        ('{"news": {"allow_subscribe_for_anonymous": true}}', "needs allow_subscribe_for_client"),
        ('{"news": {"channel_regex": "("}}', "no regular expression"),
    ],
)
def test_what_makes_no_sense_is_refused_and_named(text: str, complaint: str) -> None:
    with pytest.raises(BadNamespaces, match=complaint):
        Namespaces.parse(text)


ACTS = ("subscribe", "publish", "history", "presence")


def may(namespace: Namespace, act: str, user: str, *, is_subscribed: bool = False) -> bool:
    if act == "subscribe":
        return namespace.may_subscribe("news:a", user)
    asked = {"publish": namespace.may_publish, "history": namespace.may_read_history}
    return asked.get(act, namespace.may_see_presence)(user, is_subscribed=is_subscribed)


def permitting(act: str, *whom: str) -> Namespace:
    more: dict[str, Any] = {"history_size": 1, "history_ttl": 1} if act == "history" else {}
    if act == "presence":
        more = {"presence": True}
    return parse(**{f"allow_{act}_for_{who}": True for who in whom}, **more)


@pytest.mark.parametrize("act", ACTS)
def test_nothing_is_permitted_unless_it_is_said(act: str) -> None:
    namespace = parse(presence=True, join_leave=True, history_size=1, history_ttl=1)

    assert not may(namespace, act, "7", is_subscribed=True)
    assert not may(namespace, act, "", is_subscribed=True)


@pytest.mark.parametrize("act", ACTS)
def test_clients_are_those_with_a_name(act: str) -> None:
    assert may(permitting(act, "client"), act, "7")
    assert not may(permitting(act, "client"), act, "")
    assert may(permitting(act, "client", "anonymous"), act, "")


@pytest.mark.parametrize("act", ACTS[1:])
def test_subscribers_may_whoever_they_are(act: str) -> None:
    namespace = permitting(act, "subscriber")

    assert may(namespace, act, "", is_subscribed=True)
    assert not may(namespace, act, "7")


def test_channels_for_some_users_are_for_nobody_else() -> None:
    namespace = parse(allow_user_limited_channels=True, allow_subscribe_for_client=True)

    assert namespace.may_subscribe("news:a#7,42", "42")
    assert not namespace.may_subscribe("news:a#7,42", "4")
    assert not namespace.may_subscribe("news:a#", "")
    assert not parse(allow_subscribe_for_client=True).may_subscribe("news:a#7", "7")


def test_names_have_to_match() -> None:
    assert parse(channel_regex="^news:[a-z]+$").names("news:abc")
    assert not parse(channel_regex="^news:[a-z]+$").names("news:ABC")
    assert parse().names("news:anything")
