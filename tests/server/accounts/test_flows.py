"""Signing up, logging in and out, new passwords and addresses: what an app does, and what must not work."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from django.contrib.sessions.models import Session as DjangoSession
from django.core import mail
from django.test import Client
from pytest_django.fixtures import Settings

from models.device import Device, Session
from models.user import User
from server.accounts import people
from tests.models.scene import dsn

from .app import PASSWORD, App, code, process

pytestmark = pytest.mark.django_db(transaction=True)

NEW_PASSWORD = "another horse entirely"


@pytest.fixture(autouse=True)
def _process(settings: Settings) -> Iterator[None]:
    """Each test has a process of its own, which has counted no log-ins yet."""
    settings.ROOST = settings.ROOST.model_copy(update={"database_url": dsn()})
    backend = "django.core.cache.backends.locmem.LocMemCache"
    settings.CACHES = {"default": {"BACKEND": backend, "LOCATION": uuid4().hex}}
    with process():
        yield


@pytest.fixture
def alice() -> User:
    return people.create(email="alice@example.com", password=PASSWORD, name="Alice")


def logged_in(**device: str) -> App:
    app = App(**device)
    assert app.log_in("alice@example.com").status_code == 200
    return app


def test_signing_up_takes_a_code_and_ends_with_tokens() -> None:
    app = App(platform="ios", name="Alice's phone", install_id="phone-1")

    answer = app.sign_up("Alice@Example.com")

    assert answer.status_code == 200, answer.content
    assert answer.json()["meta"]["is_authenticated"] is True
    assert answer.json()["meta"]["expires_in"] == 900
    assert "session_token" not in answer.json()["meta"]
    user = User.objects.get()
    assert (user.name, user.email, user.password[:6]) == ("Alice", "alice@example.com", "argon2")
    device = Device.objects.get()
    assert (device.platform, device.name, device.install_id) == ("ios", "Alice's phone", "phone-1")
    assert app.is_let_in()


def test_a_wrong_code_opens_nothing_and_three_end_the_sign_up() -> None:
    app = App()
    app.call("POST", "auth/signup", email="alice@example.com", password=PASSWORD, name="Alice")

    statuses = [app.call("POST", "auth/email/verify", key="WRONG").status_code for _ in range(3)]
    afterwards = app.call("POST", "auth/email/verify", key=code())

    assert statuses == [400, 400, 400]
    assert afterwards.status_code == 409
    assert not app.access_token


@pytest.mark.parametrize(
    ("field", "value"),
    [("email", "nobody"), ("password", "short"), ("password", "1234567890"), ("name", ""), ("name", "x" * 101)],
)
def test_a_sign_up_that_does_not_fit_says_which_field(field: str, value: str) -> None:
    body = {"email": "alice@example.com", "password": PASSWORD, "name": "Alice", field: value}

    answer = App().call("POST", "auth/signup", **body)

    assert answer.status_code == 400
    assert {error["param"] for error in answer.json()["errors"]} == {field}
    assert not User.objects.exists()


def test_signing_up_twice_looks_the_same_and_warns_by_mail(alice: User) -> None:
    known = App().call("POST", "auth/signup", email=alice.email, password=PASSWORD, name="Mallory")
    warning = mail.outbox[-1]
    unknown = App().call("POST", "auth/signup", email="new@example.com", password=PASSWORD, name="Mallory")

    assert (known.status_code, known.json()["data"]) == (unknown.status_code, unknown.json()["data"])
    assert warning.to == ["alice@example.com"]
    assert "already" in str(warning.body)
    assert User.objects.count() == 2


def test_a_log_in_needs_the_right_password(alice: User) -> None:
    assert App().log_in("alice@example.com", "wrong").status_code == 400
    assert App().log_in("nobody@example.com").status_code == 400
    assert App().log_in("ALICE@example.com").status_code == 200


def test_guessing_passwords_is_stopped(alice: User) -> None:
    answers = [App().log_in("alice@example.com", f"guess number {number}") for number in range(7)]

    assert "too_many_login_attempts" in answers[-1].content.decode()
    assert App().log_in("alice@example.com").status_code == 400


def test_who_is_not_active_does_not_get_in(alice: User) -> None:
    app = logged_in()
    User.objects.update(is_active=False)

    assert not app.is_let_in()
    assert app.refresh().status_code == 401
    assert App().log_in("alice@example.com").status_code in (400, 401)


def test_logging_out_ends_the_session_and_its_pushes(alice: User) -> None:
    app = logged_in()
    Device.objects.update(target="push-token")

    answer = app.call("DELETE", "auth/session")

    assert answer.status_code == 401
    assert not app.is_let_in()
    assert app.refresh().status_code == 401
    assert Device.objects.get().target == ""
    assert not DjangoSession.objects.exists()


def test_a_second_log_in_on_a_phone_replaces_the_first(alice: User) -> None:
    first = logged_in(install_id="phone-1", name="Old name")
    second = logged_in(install_id="phone-1", name="New name")

    assert (first.is_let_in(), second.is_let_in()) == (False, True)
    assert (Device.objects.get().name, Session.objects.count()) == ("New name", 1)


def test_two_phones_are_two_sessions(alice: User) -> None:
    first, second = logged_in(install_id="phone-1"), logged_in(install_id="phone-2")

    assert (first.is_let_in(), second.is_let_in()) == (True, True)
    assert [session["is_current"] for session in second.api("GET", "sessions").json()["sessions"]] == [True, False]


@pytest.mark.parametrize("header", ["", "no JSON", '"text"', '{"platform": 7}', '{"platform": "fridge"}', "[1]"])
def test_a_device_header_that_does_not_fit_is_no_reason_to_refuse(alice: User, header: str) -> None:
    answer = Client().post(
        "/_allauth/app/v1/auth/login",
        {"email": "alice@example.com", "password": PASSWORD},
        "application/json",
        headers={"X-Roost-Device": header},
    )

    assert answer.status_code == 200
    assert Device.objects.get().platform == "other"


def test_a_changed_password_ends_the_other_sessions(alice: User) -> None:
    here, there = logged_in(), logged_in()

    answer = here.call("POST", "account/password/change", current_password=PASSWORD, new_password=NEW_PASSWORD)

    assert answer.status_code == 200, answer.content
    assert (here.is_let_in(), there.is_let_in()) == (True, False)
    assert (here.refresh().status_code, there.refresh().status_code) == (200, 401)
    assert App().log_in("alice@example.com").status_code == 400
    assert App().log_in("alice@example.com", NEW_PASSWORD).status_code == 200
    assert mail.outbox[-1].to == ["alice@example.com"]


def test_a_password_can_be_changed_twice_on_one_log_in(alice: User) -> None:
    app = logged_in()

    first = app.call("POST", "account/password/change", current_password=PASSWORD, new_password=NEW_PASSWORD)
    second = app.call("POST", "account/password/change", current_password=NEW_PASSWORD, new_password=PASSWORD)

    assert (first.status_code, second.status_code) == (200, 200)


def test_changing_a_password_needs_the_old_one(alice: User) -> None:
    app = logged_in()

    answer = app.call("POST", "account/password/change", current_password="wrong", new_password=NEW_PASSWORD)

    assert answer.status_code == 400
    assert App().log_in("alice@example.com").status_code == 200


def test_a_forgotten_password_is_reset_by_code_and_ends_all_sessions(alice: User) -> None:
    before, app = logged_in(), App()

    asked = app.call("POST", "auth/password/request", email="alice@example.com")
    answer = app.call("POST", "auth/password/reset", key=code(), password=NEW_PASSWORD)

    assert asked.status_code == 401
    assert answer.status_code == 200, answer.content
    assert (before.is_let_in(), app.is_let_in()) == (False, True)
    assert App().log_in("alice@example.com").status_code == 400


def test_a_wrong_reset_code_changes_nothing(alice: User) -> None:
    app = App()
    app.call("POST", "auth/password/request", email="alice@example.com")

    statuses = [app.call("POST", "auth/password/reset", key="WRONG", password=NEW_PASSWORD) for _ in range(3)]
    afterwards = app.call("POST", "auth/password/reset", key=code(), password=NEW_PASSWORD)

    assert [answer.status_code for answer in statuses] == [400, 400, 400]
    # The flow is over, and its token with it.
    assert afterwards.status_code == 410
    assert App().log_in("alice@example.com").status_code == 200


def test_asking_for_a_reset_tells_nobody_who_has_an_account(alice: User) -> None:
    known = App().call("POST", "auth/password/request", email="alice@example.com")
    unknown = App().call("POST", "auth/password/request", email="nobody@example.com")

    assert (known.status_code, known.json()["data"]) == (unknown.status_code, unknown.json()["data"])


def test_an_address_changes_once_its_code_was_entered(alice: User) -> None:
    app = logged_in()
    app.call("POST", "auth/reauthenticate", password=PASSWORD)

    asked = app.call("POST", "account/email", email="alice@new.example.com")
    mailed_to = mail.outbox[-1].to
    before = User.objects.get().email
    answer = app.call("POST", "auth/email/verify", key=code())

    assert (asked.status_code, mailed_to, before) == (200, ["alice@new.example.com"], "alice@example.com")
    assert answer.status_code == 200, answer.content
    assert User.objects.get().email == "alice@new.example.com"
    assert mail.outbox[-1].to == ["alice@example.com"]
    assert App().log_in("alice@example.com").status_code == 400
    assert App().log_in("alice@new.example.com").status_code == 200


def test_changing_the_address_takes_the_password_again(alice: User) -> None:
    app = logged_in()

    refused = app.call("POST", "account/email", email="mallory@example.com")
    app.call("POST", "auth/reauthenticate", password=PASSWORD)
    allowed = app.call("POST", "account/email", email="alice@new.example.com")

    assert refused.status_code == 401
    assert "reauthenticate" in {flow["id"] for flow in refused.json()["data"]["flows"]}
    assert allowed.status_code == 200


def test_the_token_of_a_flow_opens_nothing_once_it_is_finished() -> None:
    app = App()
    app.call("POST", "auth/signup", email="alice@example.com", password=PASSWORD, name="Alice")
    flow_token = app.session_token
    app.call("POST", "auth/email/verify", key=code())

    stranger = App()
    stranger.session_token = flow_token

    assert flow_token
    assert stranger.call("GET", "auth/session").status_code == 410
    assert stranger.call("GET", "account/email").status_code == 410
    assert app.call("GET", "account/email").status_code == 200


def test_a_key_of_djangos_sessions_opens_nothing(alice: User) -> None:
    logged_in()
    browser = Client()
    browser.force_login(alice)

    for key in DjangoSession.objects.values_list("session_key", flat=True):
        stranger = App()
        stranger.session_token = key
        assert stranger.call("GET", "auth/session").status_code == 410
    assert DjangoSession.objects.count() == 2


def test_an_access_token_opens_account_pages_only_while_its_session_lives(alice: User) -> None:
    app, other = logged_in(), logged_in()
    session = next(s for s in app.api("GET", "sessions").json()["sessions"] if s["is_current"])

    opened = app.call("GET", "auth/session")
    other.api("DELETE", f"sessions/{session['id']}")
    ended = app.call("GET", "auth/session")

    assert (opened.status_code, ended.status_code) == (200, 410)


def test_who_is_logged_in_cannot_log_in_again(alice: User) -> None:
    assert logged_in().log_in("alice@example.com").status_code == 409


def test_deleting_the_account_leaves_nothing_to_log_in_with(alice: User) -> None:
    app = logged_in()

    assert app.api("DELETE", "me").status_code == 204
    assert not app.is_let_in()
    assert app.refresh().status_code == 401
    assert App().log_in("alice@example.com").status_code == 400
    assert (User.objects.count(), Device.objects.count(), Session.objects.count()) == (0, 0, 0)
