"""``/v1`` as a client meets it: problems with codes, limits that say when, pages, CORS, and a document that is true."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import httpx
import jsonschema
import pytest

from consumers import rpc
from push.vapid import public_text, read_private_key
from server.api.backend import OPERATIONS as BACKEND_OPERATIONS
from server.api.operations import OPERATIONS
from tests.flows.people import Person, make_people
from tests.servers import Deployment, ServerProcess
from tests.webpush import base64url

ORIGIN = "https://app.example.com"
# The private half is the number seven.
VAPID_PRIVATE_KEY = base64url(bytes(31) + b"\x07")


@pytest.fixture(scope="module")
def web() -> Iterator[ServerProcess]:
    environment = {
        "ROOST_ALLOWED_ORIGINS": ORIGIN,
        "ROOST_HTTP_REQUESTS_PER_MINUTE_ADDRESS": "100000",
        "ROOST_VAPID_PRIVATE_KEY": VAPID_PRIVATE_KEY,
    }
    with Deployment(webs=1, environment=environment) as deployment:
        web = deployment.webs[0]
        PEOPLE[:] = make_people(deployment, "Alice", "Bob")
        yield web


PEOPLE: list[Person] = []


@pytest.fixture
def alice(web: ServerProcess) -> Person:
    return PEOPLE[0]


@pytest.fixture
def bob(web: ServerProcess) -> Person:
    return PEOPLE[1]


def ask(web: ServerProcess, method: str, path: str, person: Person | None = None, **options: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {person.token}"} if person else {}
    headers |= options.pop("headers", {})
    return httpx.request(method, f"{web.url}/v1{path}", headers=headers, timeout=20, **options)


# --- problems


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/conversations/direct", b"{", 400, "invalid_input"),
        ("/conversations/direct", b"[]", 400, "invalid_input"),
        ("/conversations/direct", b'{"user": 7}', 400, "invalid_input"),
        ("/conversations/direct", b"\xff\xfe", 400, "invalid_input"),
        ("/conversations/direct", json.dumps({"user": str(UUID(int=7))}).encode(), 404, "user_not_found"),
        ("/conversations/group", json.dumps({"title": ""}).encode(), 400, "invalid_input"),
        ("/conversations/group", json.dumps({"title": "x", "data": "y" * 300_000}).encode(), 400, "invalid_input"),
        ("/nowhere", b"{}", 404, None),
    ],
)
def test_mistakes_get_a_problem_with_a_code(
    web: ServerProcess, alice: Person, path: str, body: bytes, status: int, code: str | None
) -> None:
    answer = ask(web, "POST", path, alice, content=body)

    assert answer.status_code == status, answer.text
    if code:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == code
        assert answer.json()["status"] == status


def test_a_body_of_megabytes_is_refused_at_once(web: ServerProcess, alice: Person) -> None:
    answer = ask(web, "POST", "/conversations/group", alice, content=b"x" * 3_000_000)

    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer nonsense", "Basic YTpi", "Bearer " + "a.b.c"])
def test_without_a_good_token_nobody_is_let_in(web: ServerProcess, header: str) -> None:
    answer = ask(web, "GET", "/me", headers={"Authorization": header} if header else {})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "token_invalid"


def test_nothing_of_a_mistake_is_logged_as_a_failure(web: ServerProcess, alice: Person) -> None:
    ask(web, "POST", "/conversations/direct", alice, content=b"{")

    ask(web, "GET", "/nowhere", alice)
    ask(web, "GET", "/me")

    assert "Traceback" not in web.log
    assert "Not Found" not in web.log
    assert "Unauthorized" not in web.log


# --- sending


def test_a_repeated_send_is_told_from_the_first(web: ServerProcess, alice: Person, bob: Person) -> None:
    conversation = alice.call(web, "POST", "/conversations/direct", user=bob.id)["id"]
    body = {"client_id": "once", "text": "Hello", "data": {"n": 1}}

    first = ask(web, "POST", f"/conversations/{conversation}/messages", alice, json=body)
    second = ask(web, "POST", f"/conversations/{conversation}/messages", alice, json=body)

    assert (first.status_code, second.status_code) == (201, 200)
    assert (first.json()["duplicate"], second.json()["duplicate"]) == (False, True)
    assert (first.json()["id"], first.json()["seq"]) == (second.json()["id"], second.json()["seq"])
    assert bob.call(web, "GET", f"/messages/{first.json()['id']}")["data"] == {"n": 1}


def test_history_comes_in_pages_in_both_directions(web: ServerProcess, alice: Person, bob: Person) -> None:
    group = alice.make_group(web, "Pages", bob)
    seqs = [alice.send(web, group, f"text {number}") for number in range(5)]

    newest = alice.call(web, "GET", f"/conversations/{group}/messages?limit=2")
    older = alice.call(web, "GET", f"/conversations/{group}/messages?limit=2&before={newest['messages'][0]['seq']}")
    newer = alice.call(web, "GET", f"/conversations/{group}/messages?limit=100&after={seqs[3]}")

    assert [message["seq"] for message in newest["messages"]] == seqs[3:]
    assert [message["seq"] for message in older["messages"]] == seqs[1:3]
    assert [message["seq"] for message in newer["messages"]] == seqs[4:]
    assert (newest["has_more"], newer["has_more"]) == (True, False)


# --- oneself


def test_quiet_hours_are_set_shown_and_removed(web: ServerProcess, bob: Person) -> None:
    hours = {"from": "22:00", "until": "07:00", "time_zone": "Asia/Kolkata"}

    answer = ask(web, "PATCH", "/me", bob, json={"quiet_hours": hours})
    renamed = ask(web, "PATCH", "/me", bob, json={"name": "Bob"})
    removed = ask(web, "PATCH", "/me", bob, json={"quiet_hours": None})

    assert answer.json()["quiet_hours"] == renamed.json()["quiet_hours"] == hours
    assert removed.json()["quiet_hours"] is None


@pytest.mark.parametrize("hours", [{"from": 22}, {"from": "22:00", "until": "07:00"}, {}, "22:00"])
def test_quiet_hours_that_are_none_are_refused(web: ServerProcess, bob: Person, hours: Any) -> None:
    answer = ask(web, "PATCH", "/me", bob, json={"quiet_hours": hours})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


# --- limits


def test_a_limit_says_when_to_come_back(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(environment={"ROOST_HTTP_REQUESTS_PER_MINUTE": "5"})
    web = deployment.webs[0]
    alice, bob = make_people(deployment, "Alice", "Bob")

    # A window may end in between, once.
    answers = [ask(web, "GET", "/me", alice) for _ in range(12)]

    refused = [answer for answer in answers if answer.status_code == 429]
    assert answers[0].status_code == 200
    assert refused
    assert refused[0].json()["code"] == "too_many_requests"
    assert 1 <= int(refused[0].headers["retry-after"]) <= 60
    assert ask(web, "GET", "/me", bob).status_code == 200


def test_limits_hold_without_redis(deploy: Callable[..., Deployment]) -> None:
    deployment = deploy(environment={"ROOST_HTTP_REQUESTS_PER_MINUTE": "5"})
    web = deployment.webs[0]
    (alice,) = make_people(deployment, "Alice")
    deployment.valkey.stop()

    statuses = {ask(web, "GET", "/me", alice).status_code for _ in range(12)}

    assert statuses == {200, 429}


# --- pushes of browsers


def test_anybody_may_ask_for_the_key_that_browsers_subscribe_with(web: ServerProcess) -> None:
    answer = ask(web, "GET", "/push/key")

    assert answer.json() == {"vapid_public_key": public_text(read_private_key(VAPID_PRIVATE_KEY))}
    assert VAPID_PRIVATE_KEY not in answer.text


# --- pages of other origins


def test_pages_of_allowed_origins_may_call_and_others_may_not(web: ServerProcess) -> None:
    asks = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}

    allowed = ask(web, "OPTIONS", "/me", headers={"Origin": ORIGIN, **asks})
    other = ask(web, "OPTIONS", "/me", headers={"Origin": "https://evil.example", **asks})

    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in other.headers


# --- the document


@pytest.fixture(scope="module")
def document(web: ServerProcess) -> dict[str, Any]:
    answer = ask(web, "GET", "/openapi.json")
    assert answer.status_code == 200
    described: dict[str, Any] = answer.json()
    return described


def test_every_method_has_an_address_and_every_address_a_description(document: dict[str, Any]) -> None:
    described = {
        operation["operationId"]: operation
        for path in document["paths"].values()
        for operation in path.values()
        if isinstance(operation, dict)
    }

    backend = {operation.name for operation in BACKEND_OPERATIONS}
    assert set(described) == {operation.method for operation in OPERATIONS} | {"token.refresh", "push.key"} | backend
    assert {operation.method for operation in OPERATIONS} == set(rpc.METHODS) - {rpc.PING} | {rpc.SEND}
    assert all(operation["summary"] for operation in described.values())


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    checked = 0
    for content in contents_in(document["paths"]):
        if "example" in content:
            schema = {**content["schema"], "components": document["components"]}
            jsonschema.validate(content["example"], schema)
            checked += 1

    assert checked > 20


def test_answers_fit_their_schemas(web: ServerProcess, document: dict[str, Any], alice: Person, bob: Person) -> None:
    group = alice.make_group(web, "Schemas", bob)
    alice.send(web, group, "Hello")
    (message,) = (m["id"] for m in alice.call(web, "GET", f"/conversations/{group}/messages")["messages"] if m["text"])
    paths = {
        "/v1/me": "/me",
        "/v1/conversations": "/conversations",
        "/v1/conversations/{conversation}": f"/conversations/{group}",
        "/v1/conversations/{conversation}/messages": f"/conversations/{group}/messages",
        "/v1/conversations/{conversation}/members": f"/conversations/{group}/members",
        "/v1/users": "/users?q=bob",
        "/v1/users/{id}": f"/users/{bob.id}",
        "/v1/devices": "/devices",
        "/v1/sessions": "/sessions",
        "/v1/feeds": "/feeds",
        "/v1/blocks": "/blocks",
        "/v1/sync": "/sync",
        "/v1/messages/{id}/push": f"/messages/{message}/push",
    }
    for template, path in paths.items():
        schema = document["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(alice.call(web, "GET", path), {**schema, "components": document["components"]})


# --- pushes


def test_a_push_to_see_whether_any_arrives(web: ServerProcess, document: dict[str, Any], alice: Person) -> None:
    address = f"/devices/{alice.device}/push-test"
    refused = ask(web, "POST", address, alice)
    alice.call(web, "PUT", "/devices/current", platform="android", target="alices-phone")

    sent = ask(web, "POST", address, alice)
    again = ask(web, "POST", address, alice)
    push_id = sent.json()["push_id"]
    told = [ask(web, "POST", f"/push/{push_id}/receipts", alice, json={"event": word}) for word in ("opened", "lost")]
    shown = ask(web, "GET", f"/push/{push_id}", alice)

    assert (refused.status_code, refused.json()["code"]) == (409, "no_push_target")
    assert sent.status_code == 202
    assert (again.status_code, again.json()["code"]) == (429, "too_many_requests")
    assert 1 <= int(again.headers["Retry-After"]) <= 10
    assert [answer.status_code for answer in told] == [204, 400]
    assert {**shown.json(), "received_at": None, "displayed_at": None, "opened_at": None} == sent.json()
    assert shown.json()["opened_at"]
    assert "alices-phone" not in sent.text + shown.text
    for answer in (sent, shown):
        schema = {"$ref": "#/components/schemas/PushPayload", "components": document["components"]}
        jsonschema.validate(answer.json(), schema)


def contents_in(node: Any) -> Iterator[dict[str, Any]]:
    """Every place that has a schema, with its example."""
    if isinstance(node, dict):
        if "schema" in node:
            yield node
        for child in node.values():
            yield from contents_in(child)
