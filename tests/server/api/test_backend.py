"""The chat for the app's own backend: people and conversations by its own names, everything twice without harm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from server.api.backend import OPERATIONS
from tests.servers import Deployment, ServerProcess

KEY = "the-key-of-the-server-api-that-nobody-knows"


@pytest.fixture(scope="module")
def web() -> Iterator[ServerProcess]:
    environment = {"ROOST_API_KEY": KEY, "ROOST_HTTP_REQUESTS_PER_MINUTE_ADDRESS": "100000"}
    with Deployment(webs=1, environment=environment) as deployment:
        yield deployment.webs[0]


@pytest.fixture
def backend(web: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{web.url}/v1/backend", headers={"X-API-Key": KEY}, timeout=20) as client:
        yield client


def done(answer: httpx.Response) -> Any:
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def make_user(backend: httpx.Client, name: str) -> str:
    done(backend.put(f"/users/{name}", json={"name": name.title()}))
    return name


def make_group(backend: httpx.Client, name: str, *people: str) -> str:
    members = [make_user(backend, person) for person in people]
    done(backend.put(f"/conversations/{name}", json={"kind": "group", "title": "Group", "members": members}))
    return name


def test_a_user_is_made_once_and_changed_afterwards(backend: httpx.Client) -> None:
    first = done(backend.put("/users/customer-1", json={"name": "Ann", "data": {"tier": 1}}))
    again = done(backend.put("/users/customer-1", json={}))
    changed = done(backend.put("/users/customer-1", json={"name": "Anna"}))

    assert first["id"] == again["id"] == changed["id"]
    assert (again["name"], changed["name"], changed["data"]) == ("Ann", "Anna", {"tier": 1})
    assert done(backend.get("/users/customer-1")) == done(backend.get(f"/users/{first['id']}")) == changed


def test_tokens_of_a_user_open_both_doors(web: ServerProcess, backend: httpx.Client) -> None:
    make_user(backend, "token-user")

    pair = done(backend.post("/users/token-user/token", json={"install_id": "phone", "platform": "ios"}))
    again = done(backend.post("/users/token-user/token", json={"install_id": "phone"}))
    headers = {"Authorization": f"Bearer {again['access_token']}"}
    me = httpx.get(f"{web.url}/v1/me", headers=headers).json()
    devices = httpx.get(f"{web.url}/v1/devices", headers=headers).json()["devices"]
    before = httpx.get(f"{web.url}/v1/me", headers={"Authorization": f"Bearer {pair['access_token']}"})

    assert me["external_id"] == "token-user"
    assert [device["platform"] for device in devices] == ["ios"]
    assert before.status_code == 401


def test_a_conversation_is_made_once_and_changed_afterwards(backend: httpx.Client) -> None:
    make_group(backend, "order-1", "ann", "bob")

    again = done(backend.put("/conversations/order-1", json={"kind": "group", "members": ["ann"]}))
    changed = done(backend.put("/conversations/order-1", json={"kind": "group", "title": "Other", "data": {"a": 1}}))

    assert (again["title"], again["member_count"], again["external_id"]) == ("Group", 2, "order-1")
    assert (changed["id"], changed["title"], changed["data"]) == (again["id"], "Other", {"a": 1})
    assert done(backend.get("/conversations/order-1")) == done(backend.get(f"/conversations/{again['id']}")) == changed


def test_direct_conversations_and_feeds(backend: httpx.Client) -> None:
    people = [make_user(backend, name) for name in ("dan", "eve", "finn")]

    direct = done(backend.put("/conversations/pair", json={"kind": "direct", "members": people[:2]}))
    feed = done(backend.put("/conversations/news", json={"kind": "feed", "title": "News", "members": people}))

    assert (direct["kind"], direct["member_count"]) == ("direct", 2)
    assert (feed["kind"], feed["member_count"], feed["channel"]) == ("feed", 3, f"feed:{feed['id']}")
    assert code(backend.put("/conversations/pair", json={"kind": "group"})) == (400, "invalid_input")


def test_members_come_and_go_as_often_as_it_is_said(backend: httpx.Client) -> None:
    make_group(backend, "team", "gil", "hal")
    make_user(backend, "ivy")

    for _ in range(2):
        done(backend.put("/conversations/team/members/ivy"))
    there = done(backend.get("/conversations/team"))["member_count"]
    for name in ("ivy", "ivy", "gil", "nobody-at-all"):
        done(backend.delete(f"/conversations/team/members/{name}"))

    assert there == 3
    assert done(backend.get("/conversations/team"))["member_count"] == 1


def test_sending_as_a_member_and_as_the_system(backend: httpx.Client) -> None:
    make_group(backend, "talk", "jan", "kim")

    said = {"client_id": "1", "sender": "jan", "text": "Hello", "data": {"n": 1}}
    first = done(backend.post("/conversations/talk/messages", json=said))
    repeated = done(backend.post("/conversations/talk/messages", json=said))
    system = {"client_id": "1", "text": "Order shipped", "data": {"event": "shipped"}}
    told = done(backend.post("/conversations/talk/messages", json=system))
    told_again = done(backend.post("/conversations/talk/messages", json=system))
    page = done(backend.get("/conversations/talk/messages?limit=2"))

    assert (first["text"], first["kind"], first["data"]) == ("Hello", "text", {"n": 1})
    assert first == repeated
    assert (told["kind"], told["sender"], told["text"], told["data"]) == (
        "system",
        None,
        "Order shipped",
        {"event": "shipped"},
    )
    assert told == told_again
    assert [message["id"] for message in page["messages"]] == [first["id"], told["id"]]
    assert page["has_more"] is True


def test_what_is_gone_stays_gone(backend: httpx.Client) -> None:
    make_group(backend, "short", "leo", "mia")

    for _ in range(2):
        done(backend.delete("/conversations/short"))
        done(backend.delete("/users/leo"))

    assert code(backend.get("/conversations/short")) == (404, "conversation_not_found")
    assert code(backend.get("/users/leo")) == (404, "user_not_found")


@pytest.mark.parametrize(
    ("verb", "path", "body", "expected"),
    [
        ("PUT", "/conversations/bad", {"kind": "party", "members": ["ann"]}, (400, "invalid_input")),
        ("PUT", "/conversations/bad", {"kind": "group", "members": []}, (400, "invalid_input")),
        ("PUT", "/conversations/bad", {"kind": "group", "title": "x", "members": ["who"]}, (404, "user_not_found")),
        ("PUT", "/conversations/bad", {"kind": "direct", "members": ["ann"]}, (400, "invalid_input")),
        ("PUT", "/users/" + "a" * 300, {}, (400, "invalid_input")),
        ("POST", "/conversations/none/messages", {"client_id": "1", "text": "x"}, (404, "conversation_not_found")),
        ("POST", "/conversations/order-2/messages", {"client_id": "1"}, (400, "empty_message")),
        ("POST", "/conversations/order-2/messages", {"client_id": "", "text": "x"}, (400, "bad_client_id")),
        (
            "POST",
            "/conversations/order-2/messages",
            {"client_id": "1", "sender": "stranger", "text": "x"},
            (404, "conversation_not_found"),
        ),
        ("POST", "/users/who/token", {}, (404, "user_not_found")),
        ("DELETE", "/conversations/pair-2", None, (403, "wrong_conversation_kind")),
    ],
)
def test_mistakes(backend: httpx.Client, verb: str, path: str, body: object, expected: tuple[int, str]) -> None:
    make_group(backend, "order-2", "ann", "bob")
    make_user(backend, "stranger")
    done(backend.put("/conversations/pair-2", json={"kind": "direct", "members": ["ann", "stranger"]}))

    assert code(backend.request(verb, path, json=body)) == expected


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_without_the_key_nobody_is_let_in(web: ServerProcess, operation: Any) -> None:
    path = operation.path.replace("{", "").replace("}", "")

    for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "wrong"}, {"Authorization": f"Bearer {KEY}"}):
        answer = httpx.request(operation.verb, f"{web.url}/v1{path}", headers=headers)
        assert code(answer) == (401, "token_invalid")
