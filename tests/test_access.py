"""Every operation, over both doors, by everybody: as ``access_matrix`` says, and without a word to outsiders."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from django.test import AsyncClient

from consumers import rpc
from consumers.engine import Engine
from models import channels, threads
from models.conversation import DeviceReceipt
from models.operations import conversations, devices, members, messages, pushes, users
from models.operations.sessions import OpenedSession
from models.user import User
from server.api.operations import OPERATIONS, Operation
from tests import access_matrix, factories
from tests.access_matrix import CHANNELS, CONVERSATIONS, ERRORS, OWN, PEOPLE, PROTOCOL_ERRORS, Row
from tests.consumers.phone import Phone, make_engine

pytestmark = pytest.mark.django_db(transaction=True)

BY_METHOD = {operation.method: operation for operation in OPERATIONS}
EVERY_METHOD = {*rpc.METHODS, rpc.SEND}
ADDRESSES = count(1)


# --- the scene


class Scene(NamedTuple):
    """
    A conversation, its owner (in a direct one the other person), an ordinary member, the caller, and two messages.

    ``own_message`` is the caller's, where the role could write one.
    """

    kind: str
    id: UUID
    channel: str
    caller: User
    login: OpenedSession
    owner: User
    owner_login: OpenedSession
    member: User
    message: UUID
    own_message: UUID | None


def make_scene(kind: str, role: str) -> Scene:
    """Somebody in a role towards a conversation: what has to happen for that, has happened."""
    owner, member, caller = (factories.make_user(name) for name in ("Olga", "Mia", "Carl"))
    if kind == "direct":
        id = _make_direct(role, owner, member, caller)
    elif kind == "feed":
        id = _make_feed(role, owner, member, caller)
    else:
        id = _make_group(role, owner, member, caller)
    user = owner if role == "owner" else caller
    writes = role in ("admin", "owner") if kind == "feed" else role != "stranger"
    own = factories.send(user, id, "mine") if writes else None
    message = factories.send(owner, id, "Hello")
    if role == "former":
        members.remove_member(actor=owner.id, conversation_id=id, user_id=user.id)
    if role == "blocked":
        users.block(actor=owner.id, user_id=user.id)
    login = factories.make_session(user)
    return Scene(
        kind=kind,
        id=id,
        channel=channels.of_conversation(kind, id),
        caller=user,
        login=login,
        owner=owner,
        owner_login=login if user is owner else factories.make_session(owner),
        member=member,
        message=message,
        own_message=own,
    )


def _make_direct(role: str, owner: User, member: User, caller: User) -> UUID:
    return factories.make_direct(owner, member if role == "stranger" else caller).id


def _make_group(role: str, owner: User, member: User, caller: User) -> UUID:
    others = [] if role in ("stranger", "owner") else [caller]
    id = factories.make_group(owner, member, *others).id
    _promote(role, id, owner, caller)
    return id


def _make_feed(role: str, owner: User, member: User, caller: User) -> UUID:
    id = conversations.create_feed(actor=owner.id, title="Feed").id
    members.follow(actor=member.id, conversation_id=id)
    if role not in ("stranger", "owner"):
        members.follow(actor=caller.id, conversation_id=id)
    _promote(role, id, owner, caller)
    return id


def _promote(role: str, id: UUID, owner: User, caller: User) -> None:
    if role == "admin":
        members.change_role(actor=owner.id, conversation_id=id, user_id=caller.id, role="admin")


# --- the two doors


class Answer(NamedTuple):
    """What a door said: the error's code, or None; and all of it."""

    error: str | None
    status: int
    body: Any


Door = Callable[[OpenedSession, str, dict[str, Any]], Awaitable[Answer]]


@pytest.fixture
async def engine(transactional_db: None) -> AsyncIterator[Engine]:
    engine = make_engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture(params=["websocket", "http"])
def door(request: pytest.FixtureRequest, engine: Engine) -> Door:
    return over_websocket(engine) if request.param == "websocket" else over_http


def over_websocket(engine: Engine) -> Door:
    async def call(login: OpenedSession, method: str, arguments: dict[str, Any]) -> Answer:
        phone = Phone(engine, login)
        await phone.connect()
        reply = await phone.ask(rpc={"method": method, "data": arguments})
        phone.drop()
        error = reply.get("error")
        if error is None:
            return Answer(None, 200, reply["rpc"])
        return Answer(error["message"].partition(":")[0], error["code"], error)

    return call


async def over_http(login: OpenedSession | None, method: str, arguments: dict[str, Any]) -> Answer:
    operation = BY_METHOD[method]
    path, rest = _address(operation, arguments)
    headers = {"Authorization": f"Bearer {factories.access_token(login)}"} if login else {}
    client = AsyncClient(REMOTE_ADDR=f"10.0.{next(ADDRESSES) % 250}.{next(ADDRESSES) % 250}")
    if operation.takes_body:
        answer = await client.generic(operation.verb, path, json.dumps(rest), "application/json", headers=headers)
    else:
        answer = await client.generic(operation.verb, path, query_params=rest, headers=headers)
    if answer.status_code < 400:
        return Answer(None, answer.status_code, answer.content)
    problem = json.loads(answer.content)
    return Answer(problem["code"], answer.status_code, {k: v for k, v in problem.items() if k != "instance"})


def _address(operation: Operation, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    rest = dict(arguments)
    path = operation.path
    for part in path.split("/"):
        if part.startswith("{"):
            path = path.replace(part, str(rest.pop(part[1:-1])))
    return f"/v1{path}", rest


# --- what is said to them


def arguments_of(method: str, scene: Scene, about: str) -> dict[str, Any]:
    """Make the input of a method; ``about`` is the second column of the table."""
    here = {"conversation": str(scene.id)}
    message = scene.own_message if about.endswith("-own") else scene.message
    other = scene.owner if about.endswith("-owner") else scene.member
    match method:
        case "message.send":
            return {**here, "client_id": uuid4().hex, "text": "Hi"}
        case "call.ring":
            return {**here, "call_id": uuid4().hex}
        case "message.get" | "message.delete" | "message.push":
            return {"id": str(message)}
        case "message.edit":
            return {"id": str(message), "text": "changed"}
        case "conversation.rename":
            return {**here, "title": "Other"}
        case "conversation.set_data":
            return {**here, "data": {"colour": "red"}}
        case "conversation.set_push_content":
            return {**here, "push_content": "id_only"}
        case "conversation.read" | "conversation.delivered":
            return {**here, "seq": 1}
        case "conversation.mute":
            return {**here, "level": "none"}
        case "conversation.add_member":
            return {**here, "user": str(factories.make_user("New").id)}
        case "conversation.remove_member":
            return {**here, "user": str(other.id)}
        case "conversation.change_role":
            return {**here, "user": str(other.id), "role": "member" if about.endswith("-owner") else "admin"}
    return here


OWN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "conversation.create_group": {"title": "Group"},
    "feed.create": {"title": "Feed"},
    "user.update": {"name": "Other"},
    "user.search": {"q": "Olga"},
    "device.register": {"platform": "ios"},
}


def with_unknown_id(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same about something that was never made."""
    key = next(key for key in ("conversation", "push_id", "id") if key in arguments)
    return {**arguments, key: str(uuid4())}


# --- what it costs

_statements: ContextVar[list[str] | None] = ContextVar("statements", default=None)


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Collect the statements of what is called inside; of the writer, which works for everybody, all of them."""
    found: list[str] = []
    token = _statements.set(found)
    with monkeypatch.context() as patch:
        execute, execute_async = psycopg.Cursor.execute, psycopg.AsyncCursor.execute

        def counted(self: Any, query: Any, *rest: Any, **options: Any) -> Any:
            statements = _statements.get()
            if statements is not None:
                statements.append(str(query))
            return execute(self, query, *rest, **options)

        async def counted_async(self: Any, query: Any, *rest: Any, **options: Any) -> Any:
            # What the writer does for itself now and then is nobody's.
            if "DISCARD" not in str(query) and "DELETE FROM messaging_writerbatch" not in str(query):
                found.append(str(query))
            return await execute_async(self, query, *rest, **options)

        patch.setattr(psycopg.Cursor, "execute", counted)
        patch.setattr(psycopg.AsyncCursor, "execute", counted_async)
        yield found
    _statements.reset(token)


async def statements_of(monkeypatch: pytest.MonkeyPatch, call: Awaitable[Answer]) -> tuple[Answer, list[str]]:
    with counting(monkeypatch) as statements:
        answer = await call
    return answer, statements


# --- the tests


def test_every_operation_is_in_the_table() -> None:
    listed = {row.call for table in (CONVERSATIONS, PEOPLE) for row in access_matrix.rows(table)} | OWN

    assert listed == EVERY_METHOD
    assert set(BY_METHOD) == EVERY_METHOD
    assert len(OPERATIONS) == len(BY_METHOD)


def test_every_kind_of_conversation_is_in_the_table() -> None:
    about: dict[str, set[str]] = {}
    for row in access_matrix.rows(CONVERSATIONS):
        about.setdefault(row.call, set()).add(row.about)

    assert all(kinds >= {"group", "direct", "feed"} for kinds in about.values())


@pytest.mark.parametrize("row", access_matrix.rows(CONVERSATIONS), ids=lambda row: f"{row.call}-{row.about}")
async def test_conversations(door: Door, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}
    for role, expected in row.answers.items():
        scene = await threads.run(make_scene, row.about.partition("-")[0], role)
        arguments = await threads.run(arguments_of, row.call, scene, row.about)

        answer, statements = await statements_of(monkeypatch, door(scene.login, row.call, arguments))

        found[role] = named(answer)
        if expected == "none":
            await assert_nothing_is_told(door, scene, row.call, arguments, answer, statements, monkeypatch)

    assert found == row.answers


async def assert_nothing_is_told(
    door: Door,
    scene: Scene,
    method: str,
    arguments: dict[str, Any],
    answer: Answer,
    statements: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same answer by the same number of statements as for something that does not exist."""
    unknown, as_many = await statements_of(monkeypatch, door(scene.login, method, with_unknown_id(arguments)))

    assert answer == unknown
    assert len(statements) == len(as_many), (statements, as_many)
    assert statements


def named(answer: Answer) -> str:
    """An answer by the word that the table has for it."""
    if answer.error is None:
        return "ok"
    if answer.error.endswith("_not_found"):
        return "none"
    return next((word for word, code in ERRORS.items() if code == answer.error), answer.error)


@pytest.mark.parametrize("row", access_matrix.rows(PEOPLE), ids=lambda row: row.call)
async def test_people(door: Door, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}
    for role, expected in row.answers.items():
        scene = await threads.run(make_scene, "group", {"self": "owner"}.get(role, role))
        row_of = scene.owner_login.session
        await threads.run(make_reachable, scene.owner_login)
        id = {"person": scene.owner.id, "device": row_of.device_id, "session": row_of.id}.get(row.about)
        id = id or await threads.run(make_push, scene.owner_login)
        key = next(key for key in ("user", "push_id", "id") if key in fields(row.call))
        arguments = {key: str(id), **({"event": "opened"} if row.call == "push.receipt" else {})}

        answer, statements = await statements_of(monkeypatch, door(scene.login, row.call, arguments))

        found[role] = named(answer)
        if expected == "none":
            await assert_nothing_is_told(door, scene, row.call, arguments, answer, statements, monkeypatch)

    assert found == row.answers


def make_reachable(login: OpenedSession) -> None:
    devices.register(actor=login.session.user_id, device_id=login.session.device_id, target=uuid4().hex)


def make_push(login: OpenedSession) -> UUID:
    """A push to somebody's device; its id."""
    return pushes.send_test(actor=login.session.user_id, device_id=login.session.device_id).push_id


def fields(method: str) -> tuple[str, ...]:
    names: tuple[str, ...] = rpc.input_of(method).__struct_fields__
    return names


@pytest.mark.parametrize("method", sorted(OWN))
async def test_own(door: Door, method: str) -> None:
    scene = await threads.run(make_scene, "group", "stranger")

    assert named(await door(scene.login, method, OWN_ARGUMENTS.get(method, {}))) == "ok"


@pytest.mark.parametrize("method", sorted(EVERY_METHOD))
async def test_anonymous(engine: Engine, method: str) -> None:
    scene = await threads.run(make_scene, "group", "member")
    arguments = dict.fromkeys(fields(method), str(scene.id))

    by_http = await over_http(None, method, arguments)
    phone = Phone(engine, scene.login)
    phone.say(json.dumps({"id": 1, "rpc": {"method": method, "data": arguments}}).encode())

    assert (by_http.error, by_http.status) == ("token_invalid", 401)
    assert phone.wire.closed == (3501, "bad request")
    assert phone.wire.frames == []


async def test_receipts_of_outsiders_change_nothing(engine: Engine, door: Door) -> None:
    scene = await threads.run(make_scene, "group", "stranger")

    for method in ("conversation.read", "conversation.delivered"):
        await door(scene.login, method, {"conversation": str(scene.id), "seq": 1})
    # A member's receipt is stored together with them.
    member = await threads.run(factories.make_session, scene.member)
    await door(member, "conversation.read", {"conversation": str(scene.id), "seq": 1})
    await engine.receipts.flush()

    stored = await threads.run(lambda: list(DeviceReceipt.objects.values_list("device__user", flat=True)))
    assert stored == [scene.member.id]


# --- channels


@pytest.mark.parametrize("row", access_matrix.rows(CHANNELS), ids=lambda row: f"{row.call}-{row.about}")
async def test_channels(engine: Engine, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}
    for role, expected in row.answers.items():
        scene = await threads.run(make_scene, row.about if row.about in ("direct", "feed") else "group", role)
        name = channel_of(scene, row.about)

        outcome, statements = await outcome_of(engine, scene, row.call, name, monkeypatch)

        found[role] = outcome
        if expected in ("denied", "none", "out") and row.about != "own":
            unknown, as_many = await outcome_of(engine, scene, row.call, unknown_channel(name), monkeypatch)
            assert unknown == outcome
            assert len(statements) == len(as_many), (statements, as_many)

    assert found == row.answers


def channel_of(scene: Scene, about: str) -> str:
    return {
        "personal": channels.personal(scene.member.id),
        "own": channels.personal(scene.caller.id),
        "unknown": "news:today",
    }.get(about, scene.channel)


def unknown_channel(name: str) -> str:
    """A channel of the same kind that does not exist."""
    return f"{name[:1] if name.startswith('#') else name[:5]}{uuid4()}"


async def outcome_of(
    engine: Engine, scene: Scene, call: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[str]]:
    """Do something with a channel; the word of the table for what came of it, and what it cost."""
    phone = Phone(engine, scene.login)
    if call == "connect":
        with counting(monkeypatch) as statements:
            subs = await phone.connect(**{name: {"recover": True, "offset": 0}})
        word = "given" if name in subs else "out"
    else:
        # What comes right after the connect reply may be handled in the connect command's context.
        with counting(monkeypatch) as statements:
            await phone.connect()
            statements.clear()
            reply = await phone.ask(**{call: command(call, name)})
        word = worded(reply)
    phone.drop()
    return word, statements


def command(call: str, name: str) -> dict[str, Any]:
    if call == "publish":
        return {"channel": name, "data": {"client_id": uuid4().hex, "text": "Hi"}}
    return {"channel": name, "limit": 10} if call == "history" else {"channel": name}


def worded(reply: dict[str, Any]) -> str:
    error = reply.get("error")
    if error is None:
        return "ok"
    known = next((word for word, code in PROTOCOL_ERRORS.items() if code == error["code"]), None)
    return known or named(Answer(error["message"], error["code"], error))


async def test_a_misspelt_channel_is_none(engine: Engine) -> None:
    scene = await threads.run(make_scene, "group", "member")
    phone = Phone(engine, scene.login)
    await phone.connect()

    for name in (scene.channel.upper(), f"{scene.channel} ", f"chat:{{{scene.id}}}", f"feed:{scene.id}", "chat:"):
        reply = await phone.subscribe(name)
        assert reply["error"]["code"] in (102, 103), name


async def test_a_removed_member_hears_nothing_more_on_any_surface(engine: Engine) -> None:
    scene = await threads.run(make_scene, "group", "member")
    phone = Phone(engine, scene.login)
    await phone.connect()

    await threads.run(members.remove_member, actor=scene.owner.id, conversation_id=scene.id, user_id=scene.caller.id)
    await threads.run(factories.send, scene.owner, scene.id, "among us")
    await threads.run(messages.typing, actor=scene.owner.id, conversation_id=scene.id, is_typing=True)
    await phone.ask(rpc={"method": "user.me"})
    again = await phone.subscribe(scene.channel)
    sync = await phone.ask(rpc={"method": "sync"})

    assert "among us" not in phone.texts(scene.channel)
    assert again["error"]["code"] == 103
    assert "among us" not in json.dumps(sync)
    assert "among us" not in json.dumps(phone.wire.replies)
