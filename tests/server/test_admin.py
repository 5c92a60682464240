"""The admin: a list costs a few statements, no secret is shown, and nothing is changed behind the operations' back."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from models import streams
from models.conversation import Conversation, Member
from models.device import Device, Session
from models.events import Publication
from models.message import Message
from models.notification import Delivery, PushCursor
from models.operations import pushes
from models.reasons import REASONS
from models.user import Block, User
from server.accounts import people
from server.admin import Shown
from tests import factories

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"
TABLES = [User, Block, Device, Session, Conversation, Member, Message, Delivery, PushCursor]
TARGET = "a-push-token-that-nobody-should-read"
KEY = b"a push key that nobody should see"[:32]


@pytest.fixture(autouse=True)
def _no_log_ins_counted_yet(settings: Settings) -> None:
    backend = "django.core.cache.backends.locmem.LocMemCache"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": uuid4().hex}}


@pytest.fixture
def operator() -> User:
    user = people.create(email="olga@example.com", password=PASSWORD, name="Olga")
    user.is_staff = user.is_superuser = True
    user.save()
    return user


@pytest.fixture
def browser(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


def fill(count: int) -> None:
    """As many rows of everything, each about other people."""
    for _ in range(count):
        alice, bob = factories.make_user("Alice"), factories.make_user("Bob")
        session = factories.make_session(alice)
        Device.objects.filter(id=session.session.device_id).update(target=f"{TARGET}-{uuid4()}", push_key=KEY)
        group = factories.make_group(alice, bob)
        message = factories.send(alice, group, "Just between us")
        Block.objects.create(blocker=alice, blocked=bob)
        device = Device.objects.create(user=bob, target=f"{TARGET}-{uuid4()}", push_key=b"k" * 32)
        about = {"user_id": bob.id, "provider": "console"}
        PushCursor.objects.create(device=device, conversation_id=group.id, pending_seq=1, **about)
        Delivery.objects.create(
            push_id=uuid4(),
            device_id=device.id,
            conversation_id=group.id,
            kind="alert",
            first_seq=1,
            seq=Message.objects.get(id=message).seq,
            state="dead",
            reason="not_renderable",
            tries=[{"at": "2026-11-25T09:00:00+00:00", "code": "not_renderable", "ms": 3}],
            **about,
        )


def address(table: type, *rest: object) -> str:
    return "/".join(["/admin/messaging", table.__name__.lower(), *map(str, rest), ""])


def test_all_of_these_tables_are_there() -> None:
    assert {table for table, shown in admin.site._registry.items() if isinstance(shown, Shown)} == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_a_list_costs_the_same_however_long_it_is(browser: Client, table: type) -> None:
    fill(1)
    with CaptureQueriesContext(
        connection,
    ) as one:
        assert browser.get(address(table)).status_code == 200
    fill(12)
    with CaptureQueriesContext(connection) as many:
        answer = browser.get(address(table))

    assert len(answer.context["cl"].result_list) >= 13
    assert len(many) == len(one) <= 8, [query["sql"] for query in many]
    assert all("LIMIT" in query["sql"] for query in many if "COUNT(" in query["sql"])


@pytest.mark.parametrize("table", TABLES)
def test_one_row_is_shown_without_secrets(browser: Client, table: type) -> None:
    fill(1)
    row = table._default_manager.first()

    answer = browser.get(address(table, row.pk, "change"))

    assert answer.status_code == 200
    shown = answer.text.partition('id="content"')[2]
    assert str(row.pk) in shown
    assert TARGET not in shown
    assert "push key" not in shown.lower()
    assert not re.search(r"hash|password", shown, re.IGNORECASE)


@pytest.mark.parametrize("table", [table for table in TABLES if table is not User])
def test_what_operations_guard_cannot_be_changed(browser: Client, table: type) -> None:
    fill(1)
    row = table._default_manager.first()

    assert browser.post(address(table, "add"), {}).status_code == 403
    assert browser.post(address(table, row.pk, "change"), {"text": "other"}).status_code == 403
    assert browser.post(address(table, row.pk, "delete"), {"post": "yes"}).status_code == 403
    assert table._default_manager.filter(pk=row.pk).exists()


@pytest.mark.parametrize("table", TABLES)
def test_whatever_is_searched_for_gets_an_answer(browser: Client, table: type) -> None:
    fill(2)
    row = table._default_manager.order_by("pk")[0]

    found = browser.get(address(table), {"q": str(row.pk)}).context["cl"].result_list
    nothing = browser.get(address(table), {"q": str(uuid4())}).context["cl"].result_list
    odd = browser.get(address(table), {"q": "%_' OR 1=1 \x00"})

    assert row in found
    assert len(nothing) == 0
    assert odd.status_code in (200, 302)


@pytest.mark.parametrize("text", ["Gust", "gustav", "GUSTAV@example.com", "crm-7"])
def test_people_are_found(browser: Client, text: str) -> None:
    factories.make_user("Somebody")
    gustav = factories.make_user("Gustav", external_id="crm-7")
    User.objects.filter(id=gustav.id).update(email="gustav@example.com")

    assert list(browser.get(address(User), {"q": text}).context["cl"].result_list) == [gustav]


@pytest.mark.parametrize(
    ("table", "query"),
    [
        (User, "is_active__exact=1"),
        (Device, "platform__exact=other"),
        (Session, "revoked_at__isempty=1"),
        (Conversation, "kind__exact=group"),
        (Member, "role__exact=owner"),
        (Message, "kind__exact=text"),
        (Delivery, "state__exact=dead"),
        (Delivery, "kind__exact=alert"),
        (Delivery, "provider=console"),
        (Delivery, "reason=not_renderable"),
        (PushCursor, "not_before__isempty=1"),
    ],
)
def test_filters(browser: Client, table: type, query: str) -> None:
    fill(1)

    answer = browser.get(f"{address(table)}?{query}")

    assert answer.status_code == 200
    assert len(answer.context["cl"].result_list) >= 1


# --- pushes


def page_of(browser: Client, row: Any) -> str:
    return browser.get(address(type(row), row.pk, "change")).text.partition('id="content"')[2]


def test_a_push_says_why_it_was_not_sent(browser: Client) -> None:
    fill(1)
    row = Delivery.objects.get()

    shown = page_of(browser, row)

    assert html.escape(REASONS["not_renderable"]) in shown
    assert "2026-11-25T09:00:00+00:00 not_renderable 3 ms" in shown
    assert html.escape(REASONS["not_renderable"]) in browser.get(address(Delivery)).text


def test_a_push_is_shown_with_its_receipts(browser: Client) -> None:
    fill(2)
    row, _ = Delivery.objects.all()
    pushes.report(actor=row.user_id, device_id=row.device_id, push_id=row.push_id, event="displayed")

    told = re.findall(r'field-receipts">(.*?)<', browser.get(address(Delivery)).text)

    assert sorted(told) == ["-", "displayed"]
    assert "Displayed at" in page_of(browser, row)


@pytest.mark.parametrize("by", ["push_id", "device_id", "user_id", "conversation_id", "message"])
def test_pushes_are_found(browser: Client, by: str) -> None:
    fill(3)
    row = Delivery.objects.all()[1]
    id = Message.objects.get(conversation=row.conversation_id, kind="text").id if by == "message" else getattr(row, by)

    assert list(browser.get(address(Delivery), {"q": str(id)}).context["cl"].result_list) == [row]


def test_a_message_leads_to_its_pushes(browser: Client) -> None:
    fill(2)
    row = Delivery.objects.all()[1]
    message = Message.objects.get(conversation=row.conversation_id, kind="text")
    # Of the same conversation, and about something else.
    for fields in ({"seq": message.seq + 1, "first_seq": message.seq + 1}, {"kind": "call"}):
        other = {**{"seq": row.seq, "first_seq": row.first_seq, "kind": "alert"}, **fields}
        Delivery.objects.create(
            push_id=uuid4(),
            device_id=uuid4(),
            user_id=uuid4(),
            conversation_id=row.conversation_id,
            state="sent",
            **other,
        )

    (link,) = re.findall(r'href="(/admin/messaging/delivery/[^"]+)"', page_of(browser, message))

    assert list(browser.get(html.unescape(link)).context["cl"].result_list) == [row]


def send_again(browser: Client, *rows: Delivery) -> str:
    form = {"action": "send_again", "_selected_action": [str(row.id) for row in rows]}
    return browser.post(address(Delivery), form, follow=True).text


def test_what_is_dead_is_sent_again_by_an_action(browser: Client) -> None:
    fill(2)
    first, second = Delivery.objects.all()

    assert "1 will be sent again." in send_again(browser, first)

    assert PushCursor.objects.get(conversation=first.conversation_id).not_before is not None
    assert PushCursor.objects.get(conversation=second.conversation_id).not_before is None


def test_only_who_may_change_pushes_sends_them_again(operator: User, browser: Client) -> None:
    fill(1)
    row = Delivery.objects.get()
    operator.is_superuser = False
    operator.save()
    operator.user_permissions.add(Permission.objects.get(codename="view_delivery"))

    send_again(browser, row)

    assert PushCursor.objects.get().not_before is None


# --- accounts


@pytest.fixture
def told() -> Iterator[list[Publication]]:
    """What is published meanwhile."""
    found: list[Publication] = []
    hear_no_more = streams.on_publish(found.extend)
    yield found
    hear_no_more()


def change(browser: Client, user: User, **fields: str) -> None:
    assert browser.post(address(User, user.id, "change"), fields).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_whoever_is_deactivated_is_logged_out(browser: Client, told: list[Publication]) -> None:
    alice = factories.make_user("Alice")
    session = factories.make_session(alice).session

    change(browser, alice, is_staff="", is_superuser="")

    session.refresh_from_db()
    assert session.revoked_at is not None
    assert [p.kind for p in told if p.ref == session.id] == ["session.revoked"]


@pytest.mark.django_db(transaction=True)
def test_sessions_are_ended_by_an_action(browser: Client, told: list[Publication]) -> None:
    alice = factories.make_user("Alice")
    factories.make_session(alice)
    factories.make_session(alice)

    browser.post(address(User), {"action": "end_sessions", "_selected_action": str(alice.id)})

    assert Session.objects.filter(user=alice, revoked_at__isnull=True).count() == 0
    assert [p.kind for p in told if p.kind == "session.revoked"] == ["session.revoked"] * 2


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["one", "several"])
def test_accounts_are_deleted_as_people_delete_them(browser: Client, told: list[Publication], way: str) -> None:
    alice, bob = factories.make_user("Alice"), factories.make_user("Bob")
    group = factories.make_group(alice, bob)
    factories.make_session(alice)

    if way == "one":
        browser.post(address(User, alice.id, "delete"), {"post": "yes"})
    else:
        form = {"action": "delete_selected", "_selected_action": str(alice.id), "post": "yes"}
        browser.post(address(User), form)

    assert not User.objects.filter(id=alice.id).exists()
    assert "user.deleted" in [p.kind for p in told]
    assert Member.objects.get(conversation=group.id).role == "owner"


def test_only_a_superuser_makes_operators(operator: User, browser: Client) -> None:
    alice = factories.make_user("Alice")
    change(browser, alice, is_active="on", is_staff="on")
    alice.refresh_from_db()
    helper = Client()
    helper.force_login(alice)
    assert alice.is_staff

    refused = helper.get(address(User))

    assert refused.status_code == 403


# --- the door


def log_in(client: Client, password: str) -> str:
    answer = client.post("/admin/login/?next=/admin/", {"username": "olga@example.com", "password": password})
    return "" if answer.status_code == 302 else answer.text


def test_operators_log_in_by_password(operator: User) -> None:
    client = Client()

    assert "correct" in log_in(client, "wrong")
    assert log_in(client, PASSWORD) == ""
    assert client.get("/admin/").status_code == 200


def test_people_who_are_no_operators_stay_outside() -> None:
    people.create(email="olga@example.com", password=PASSWORD, name="Olga")
    client = Client()

    assert "staff account" in log_in(client, PASSWORD)
    assert client.get("/admin/").status_code == 302


def test_guessing_passwords_is_limited(operator: User) -> None:
    client = Client()

    answers = [log_in(client, f"guess {number}") for number in range(12)]

    assert "Too many failed login attempts" in answers[-1]
    with transaction.atomic():
        assert "Too many failed login attempts" in log_in(client, PASSWORD)


@pytest.mark.django_db(transaction=True)
def test_a_changed_password_logs_the_apps_out(operator: User, browser: Client) -> None:
    session = factories.make_session(operator).session
    form = {
        "old_password": "wrong",
        "new_password1": "another horse entirely",
        "new_password2": "another horse entirely",
    }

    browser.post("/admin/password_change/", form)
    session.refresh_from_db()
    assert session.revoked_at is None
    browser.post("/admin/password_change/", {**form, "old_password": PASSWORD})

    session.refresh_from_db()
    assert session.revoked_at is not None


def test_its_files_are_served(browser: Client) -> None:
    page = browser.get("/admin/").text
    names = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))

    assert names
    for name in names:
        answer = browser.get(name)
        assert answer.status_code == 200, name
        assert answer["Cache-Control"] == "no-cache"
        assert browser.get(name, headers={"If-None-Match": answer["ETag"]}).status_code == 304
    assert browser.get("/static/admin/../../__init__.py").status_code == 404
    assert browser.get("/static/admin").status_code == 404
