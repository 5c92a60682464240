"""People, their devices and sessions: what belongs to whom, and what is left when somebody goes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from django.apps import apps
from django.db import connection
from pytest_django.fixtures import Settings

from models import errors, limits
from models.conversation import DeviceReceipt, Member
from models.device import Device, Session
from models.operations import devices, receipts, sessions, users
from models.operations.sessions import GRACE, refresh_session
from models.payloads import QuietHours, to_json
from models.queries import admission
from models.queries import conversations as conversation_queries
from models.queries import messages as message_queries
from models.queries import users as queries
from models.user import Block, User
from tests.factories import make_direct, make_group, make_session, make_user, send

pytestmark = pytest.mark.django_db


# --- deleting an account


def test_a_deleted_account_leaves_messages_of_a_deleted_user_and_nothing_else() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    session = make_session(alice)
    devices.register(actor=alice.id, device_id=session.session.device_id, platform="ios", target="push-token")
    direct, group = make_direct(alice, bob), make_group(alice, bob)
    send(alice, direct, "I was here")
    send(bob, direct, "so was I")
    receipts.mark_read(actor=alice.id, device=session.session.device_id, conversation_id=direct.id, seq=2)
    users.block(actor=alice.id, user_id=make_user("Carol").id)

    users.delete_account(actor=alice.id)

    assert not User.objects.filter(id=alice.id).exists()
    for model in (Device, Session, Member, DeviceReceipt):
        assert not model._default_manager.filter(**{OWNER[model]: alice.id}).exists(), model
    assert not Block.objects.exists()
    page = message_queries.history(actor=bob.id, conversation_id=direct.id)
    assert [message.text for message in page.messages] == ["I was here", "so was I"]
    assert page.users[alice.id].deleted is True
    assert conversation_queries.get_conversation(actor=bob.id, conversation_id=direct.id).other.deleted  # type: ignore[union-attr]
    assert conversation_queries.get_conversation(actor=bob.id, conversation_id=group.id).role == "owner"
    assert traces_of(alice) == []


OWNER: dict[Any, str] = {Device: "user", Session: "user", Member: "user", DeviceReceipt: "device__user"}


def traces_of(person: User) -> list[str]:
    """Tables in which the name or the address of somebody stands."""
    found = []
    with connection.cursor() as cursor:
        for model in apps.get_models():
            table = model._meta.db_table
            cursor.execute(
                f'SELECT EXISTS (SELECT 1 FROM "{table}" AS t WHERE t::text LIKE %s OR t::text LIKE %s)',
                [f"%{person.email}%", "%push-token%"],
            )
            if cursor.fetchone() == (True,):
                found.append(table)
    return found


# --- blocking and finding


def test_search_finds_the_beginnings_of_names_whatever_their_case() -> None:
    alice = make_user("Alice")
    for name in ("Bob Marley", "BOBBY", "Robert", "Ann Bobson", "100%"):
        make_user(name)
    make_user("Bob the gone", is_active=False)

    def found(q: str) -> list[str]:
        return [user.name for user in queries.search(actor=alice.id, q=q).users]

    assert found("bob") == ["Ann Bobson", "BOBBY", "Bob Marley"]
    assert found("100%") == ["100%"]
    assert found("%") == []
    assert found("alice") == []
    with pytest.raises(errors.InvalidInput):
        found("  ")


def test_blocking_is_listed_repeatable_and_undone() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")

    users.block(actor=alice.id, user_id=bob.id)
    users.block(actor=alice.id, user_id=bob.id)
    listed = [user.name for user in queries.blocks(actor=alice.id).users]
    users.unblock(actor=alice.id, user_id=bob.id)

    assert listed == ["Bob"]
    assert queries.blocks(actor=alice.id).users == []
    assert queries.blocks(actor=bob.id).users == []


# --- devices


def test_a_push_token_belongs_to_whoever_registered_it_last() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    hers, his = make_session(alice).session.device_id, make_session(bob).session.device_id
    devices.register(actor=alice.id, device_id=hers, platform="android", target="same-phone")

    devices.register(actor=bob.id, device_id=his, platform="android", target="same-phone")

    assert Device.objects.get(id=hers).target == ""
    assert Device.objects.get(id=his).target == "same-phone"


@pytest.mark.parametrize(
    "target",
    [
        "no JSON",
        "{}",
        '{"endpoint": "http://push.example.com/a", "keys": {"p256dh": "", "auth": ""}}',
        '{"endpoint": "https://push.example.com/a", "keys": {"p256dh": "AAAA", "auth": "AAAA"}}',
    ],
)
def test_a_target_of_web_push_is_a_subscription(target: str) -> None:
    alice = make_user("Alice")
    device = make_session(alice).session.device_id

    with pytest.raises(errors.InvalidInput, match="subscription"):
        devices.register(actor=alice.id, device_id=device, platform="web", push_provider="webpush", target=target)

    assert Device.objects.get(id=device).target == ""


KEY = bytes(range(32))
KEY_TEXT = base64.urlsafe_b64encode(KEY).rstrip(b"=").decode()


@pytest.mark.parametrize("text", [KEY_TEXT, KEY_TEXT + "="])
def test_a_push_key_is_kept_and_never_shown(text: str) -> None:
    alice = make_user("Alice")
    opened = make_session(alice)
    device = opened.session.device_id

    answer = devices.register(actor=alice.id, device_id=device, push_content="encrypted", push_key=text)

    assert bytes(Device.objects.get(id=device).push_key or b"") == KEY
    assert (answer.push_content, answer.has_push_key) == ("encrypted", True)
    shown = [answer, queries.devices(actor=alice.id), queries.sessions(actor=alice.id, current=None)]
    assert KEY_TEXT not in to_json(shown).decode()
    assert base64.b64encode(KEY).decode() not in to_json(shown).decode()


@pytest.mark.parametrize("text", ["A", KEY_TEXT[:-2], KEY_TEXT + "AA", KEY_TEXT[:-1] + "!", "ü" * 43, " " * 43, "="])
def test_what_is_no_key_is_refused(text: str) -> None:
    alice = make_user("Alice")
    device = make_session(alice).session.device_id

    with pytest.raises(errors.InvalidInput, match="push_key"):
        devices.register(actor=alice.id, device_id=device, push_key=text)

    assert Device.objects.get(id=device).push_key is None


def test_without_a_key_nothing_can_be_encrypted() -> None:
    alice = make_user("Alice")
    device = make_session(alice).session.device_id

    with pytest.raises(errors.InvalidInput, match="push_key"):
        devices.register(actor=alice.id, device_id=device, push_content="encrypted")
    devices.register(actor=alice.id, device_id=device, push_content="encrypted", push_key=KEY_TEXT)
    with pytest.raises(errors.InvalidInput, match="push_key"):
        devices.register(actor=alice.id, device_id=device, push_key="")
    without = devices.register(actor=alice.id, device_id=device, push_content="", push_key="")

    assert (without.push_content, without.has_push_key) == ("", False)


def test_how_much_a_push_may_tell_stays_until_it_is_changed() -> None:
    alice = make_user("Alice")
    device = make_session(alice).session.device_id
    devices.register(actor=alice.id, device_id=device, push_content="id_only", push_key=KEY_TEXT)

    later = devices.register(actor=alice.id, device_id=device, locale="de")
    with pytest.raises(errors.InvalidInput, match="One of full, sender, encrypted, id_only is expected"):
        devices.register(actor=alice.id, device_id=device, push_content="everything")

    assert (later.push_content, later.has_push_key) == ("id_only", True)


def test_a_target_for_calls_belongs_to_one_device_and_is_never_shown() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    hers, his = make_session(alice).session.device_id, make_session(bob).session.device_id
    devices.register(actor=alice.id, device_id=hers, target="first", voip_target="calls")

    answer = devices.register(actor=bob.id, device_id=his, target="second", voip_target="calls")

    assert answer.has_voip_target
    assert "calls" not in to_json([answer, queries.devices(actor=bob.id)]).decode()
    assert dict(Device.objects.values_list("id", "voip_target")) == {hers: "", his: "calls"}
    assert dict(Device.objects.values_list("id", "target")) == {hers: "first", his: "second"}


def test_who_logs_out_or_changes_hands_is_not_rung_up_any_more() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    opened, his = make_session(alice), make_session(bob).session.device_id
    hers = opened.session.device_id
    devices.register(actor=bob.id, device_id=his, target="phone", voip_target="his calls")
    devices.register(actor=alice.id, device_id=hers, target="phone", voip_target="her calls")
    assert Device.objects.get(id=his).voip_target == ""

    sessions.revoke_session(actor=alice.id, session_id=opened.session.id)

    assert Device.objects.get(id=hers).voip_target == ""


def test_nobody_touches_the_device_of_another() -> None:
    alice, bob = make_user("Alice"), make_user("Bob")
    device = make_session(alice).session.device_id

    with pytest.raises(errors.DeviceNotFound):
        devices.register(actor=bob.id, device_id=device, platform="ios", target="mine now")
    with pytest.raises(errors.DeviceNotFound):
        devices.remove(actor=bob.id, device_id=device)

    assert Device.objects.get(id=device).target == ""


def test_removing_a_device_ends_its_session() -> None:
    alice = make_user("Alice")
    opened = make_session(alice)

    devices.remove(actor=alice.id, device_id=opened.session.device_id)

    assert not admission.is_session_alive(user_id=alice.id, session_id=opened.session.id)
    with pytest.raises(errors.SessionRevoked):
        refresh_session(refresh_token=opened.refresh_token)


def test_the_device_unused_for_longest_makes_room_for_one_more() -> None:
    alice = make_user("Alice")
    opened = [make_session(alice) for _ in range(limits.MAX_DEVICES_PER_USER)]
    stale = opened[3].session
    Device.objects.filter(id=stale.device_id).update(last_seen_at="2020-01-01T00:00:00Z")

    make_session(alice)

    assert Device.objects.filter(user=alice).count() == limits.MAX_DEVICES_PER_USER
    assert not Device.objects.filter(id=stale.device_id).exists()
    assert not admission.is_session_alive(user_id=alice.id, session_id=stale.id)


# --- refresh tokens


def test_a_refresh_token_is_exchanged_and_a_repeat_gets_the_same_answer() -> None:
    first = make_session(make_user("Alice"))

    second = refresh_session(refresh_token=first.refresh_token)
    again = refresh_session(refresh_token=first.refresh_token)
    third = refresh_session(refresh_token=second.refresh_token)

    assert second.refresh_token == again.refresh_token
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3


def test_an_old_refresh_token_that_comes_back_ends_the_session() -> None:
    alice = make_user("Alice")
    first = make_session(alice)
    second = refresh_session(refresh_token=first.refresh_token)
    third = refresh_session(refresh_token=second.refresh_token)

    with pytest.raises(errors.SessionRevoked):
        refresh_session(refresh_token=first.refresh_token)

    with pytest.raises(errors.SessionRevoked):
        refresh_session(refresh_token=third.refresh_token)
    assert not admission.is_session_alive(user_id=alice.id, session_id=first.session.id)


def test_the_previous_refresh_token_after_the_grace_ends_the_session() -> None:
    alice = make_user("Alice")
    first = make_session(alice)
    refresh_session(refresh_token=first.refresh_token)
    session = Session.objects.get(id=first.session.id)
    Session.objects.filter(id=session.id).update(rotated_at=session.rotated_at - 2 * GRACE)

    with pytest.raises(errors.SessionRevoked):
        refresh_session(refresh_token=first.refresh_token)
    assert not admission.is_session_alive(user_id=alice.id, session_id=session.id)


@pytest.mark.parametrize("change", [lambda t: t[:-2] + "AA", lambda t: "rt_" + t[4:], lambda t: "", lambda t: t + "x"])
def test_a_forged_refresh_token_is_none(change: Any) -> None:
    alice = make_user("Alice")
    opened = make_session(alice)

    with pytest.raises(errors.TokenInvalid):
        refresh_session(refresh_token=change(opened.refresh_token))

    assert admission.is_session_alive(user_id=alice.id, session_id=opened.session.id)


def test_a_refresh_token_of_another_secret_is_none(settings: Settings) -> None:
    opened = make_session(make_user("Alice"))
    settings.SECRET_KEY = "another secret key that is long enough to be one, surely, yes"

    with pytest.raises(errors.TokenInvalid):
        refresh_session(refresh_token=opened.refresh_token)


def test_revoking_all_keeps_the_one_that_asks() -> None:
    alice = make_user("Alice")
    kept, ended = make_session(alice), make_session(alice)

    sessions.revoke_all(actor=alice.id, except_session=kept.session.id)

    assert admission.is_session_alive(user_id=alice.id, session_id=kept.session.id)
    assert not admission.is_session_alive(user_id=alice.id, session_id=ended.session.id)


# --- quiet hours


def make_hours(start: str = "22:00", until: str = "07:00", time_zone: str = "Europe/Berlin") -> QuietHours:
    return QuietHours(start=start, until=until, time_zone=time_zone)


def test_quiet_hours_are_kept_shown_and_removed() -> None:
    alice = make_user("Alice")

    set_to = users.update_me(actor=alice.id, quiet_hours=make_hours())
    renamed = users.update_me(actor=alice.id, name="Alice B.")
    shown = queries.me(actor=alice.id)
    removed = users.update_me(actor=alice.id, quiet_hours=None)

    assert set_to.quiet_hours == renamed.quiet_hours == shown.quiet_hours == make_hours()
    assert removed.quiet_hours is None
    alice.refresh_from_db()
    assert (alice.time_zone, alice.quiet_from, alice.quiet_until) == ("", None, None)


@pytest.mark.parametrize(
    "hours",
    [
        make_hours(start="22"),
        make_hours(start="22:00:00"),
        make_hours(until="24:00"),
        make_hours(until="07:60"),
        make_hours(until="٠٧:٠٠"),
        make_hours(start="22:00\n"),
        make_hours(start="07:00", until="07:00"),
        make_hours(time_zone=""),
        make_hours(time_zone="Berlin"),
        make_hours(time_zone="../../etc/localtime"),
        make_hours(time_zone="localtime"),
        make_hours(time_zone="\0"),
    ],
)
def test_hours_that_are_none_are_refused(hours: QuietHours) -> None:
    alice = make_user("Alice")

    with pytest.raises(errors.InvalidInput):
        users.update_me(actor=alice.id, name="Other", quiet_hours=hours)

    assert queries.me(actor=alice.id).name == "Alice"
