"""Mails about unread messages: what they say, whom they reach, and how they end."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core import mail, signing
from django.core.mail.backends.locmem import EmailBackend
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from models import threads
from models.device import Device
from models.message import Message
from models.operations import users
from models.user import User
from push.words import Dictionary
from server import env, summaries
from server.summaries import Summaries
from tests.factories import make_device, make_group, make_user, send

pytestmark = pytest.mark.django_db(transaction=True)

URL = "https://chat.example.com"
DICTIONARY = Dictionary()


async def nobody(device_ids: Sequence[UUID]) -> Collection[UUID] | None:
    return ()


@pytest.fixture
def sender(settings: Settings) -> Callable[..., Summaries]:
    """``sender()`` makes what sends mails, twelve hours after the last sign of life."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"

    def make(live: summaries.Live = nobody, hours: float = 12) -> Summaries:
        changes = {"summary_hours": hours, "public_url": f"{URL}/"}
        return Summaries(settings.ROOST.model_copy(update=changes), DICTIONARY, live)

    return make


def make_away(locale: str = "de", **fields: Any) -> User:
    """Somebody whom two messages wait for since yesterday."""
    long_ago = timezone.now() - timedelta(days=1)
    ann, bea = make_user("Ann Arbor"), make_user("Bea", **fields)
    make_device(bea, locale=locale, last_seen_at=long_ago)
    group = make_group(ann, bea, title="Book club")
    send(ann, group, "a secret"), send(ann, group, "another one")
    Message.objects.filter(conversation_id=group.id).update(created_at=long_ago)
    return bea


async def away(*locales: str) -> list[User]:
    return [await threads.run(make_away, locale) for locale in locales]


def link_of(message: Any) -> str:
    return str(re.fullmatch(r"<(.*)>", message.extra_headers["List-Unsubscribe"])[1])  # type: ignore[index]


# --- the mail


async def test_a_mail_says_how_much_waits_and_not_what(sender: Callable[..., Summaries]) -> None:
    (bea,) = await away("de")

    count = await sender().run()

    (message,) = mail.outbox
    assert (count, message.to) == (1, [bea.email])
    assert message.subject == "2 neue Nachrichten in 1 Unterhaltung"
    assert message.body.splitlines()[:4] == ["In der Zwischenzeit", "", message.subject, f"{URL}/"]
    everything = message.message().as_string()
    assert not any(word in everything for word in ("Ann", "Book club", "secret"))


async def test_it_can_be_unsubscribed_from_with_one_click(sender: Callable[..., Summaries]) -> None:
    await away("en")

    await sender().run()

    (message,) = mail.outbox
    assert message.extra_headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert link_of(message).startswith(f"{URL}/unsubscribe/")
    assert link_of(message) in message.body


async def test_each_is_told_once_in_their_language(sender: Callable[..., Summaries]) -> None:
    await away("fr", "ar", "tlh")
    worker = sender()

    counts = [await worker.run() for _ in range(3)]

    assert counts == [3, 0, 0]
    assert {message.subject for message in mail.outbox} == {
        "2 nouveaux messages dans 1 conversation",
        "رسالتان جديدتان في محادثة واحدة",
        "2 new messages in 1 conversation",
    }


async def test_without_hours_nobody_is_written_to(sender: Callable[..., Summaries]) -> None:
    await away("de")

    assert await sender(hours=0).run() == 0
    assert mail.outbox == []


async def test_who_is_connected_is_not_written_to(sender: Callable[..., Summaries]) -> None:
    here, _ = await away("de", "fr")
    device = (await threads.run(Device.objects.get, user=here)).id

    async def live(device_ids: Sequence[UUID]) -> Collection[UUID]:
        return {device}

    assert await sender(live).run() == 1
    assert here.email not in mail.outbox[0].to
    # And is, once they are gone.
    assert await sender().run() == 1
    assert mail.outbox[1].to == [here.email]


async def test_while_nobody_knows_who_is_connected_mails_wait(sender: Callable[..., Summaries]) -> None:
    await away("de")

    async def unknown(device_ids: Sequence[UUID]) -> None:
        return None

    assert await sender(unknown).run() == 0
    assert await sender().run() == 1


async def test_after_everybody_was_looked_at_there_is_a_rest(
    sender: Callable[..., Summaries], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, later = sender(), monotonic() + summaries.REST_SECONDS + 1
    await worker.run()
    await away("de")

    soon = await worker.run()
    monkeypatch.setattr(summaries, "monotonic", lambda: later)
    after_it = await worker.run()

    assert (soon, after_it) == (0, 1)


# --- mail servers


class Refusing(EmailBackend):
    """A mail server that has something against mails, as the test says."""

    error: Exception | None = None
    errors_of: dict[str, Exception] = {}

    def open(self) -> None:
        if self.error:
            raise self.error

    def send_messages(self, messages: Sequence[Any]) -> int:
        for message in messages:
            if error := self.errors_of.get(message.to[0]):
                raise error
        return int(super().send_messages(messages))


@pytest.fixture
def server(sender: Callable[..., Summaries], settings: Settings) -> Iterator[type[Refusing]]:
    settings.EMAIL_BACKEND = f"{__name__}.Refusing"
    yield Refusing
    Refusing.error, Refusing.errors_of = None, {}


@pytest.mark.parametrize("error", [ConnectionRefusedError(), TimeoutError(), smtplib.SMTPAuthenticationError(535, b"")])
async def test_without_a_mail_server_mails_wait(
    sender: Callable[..., Summaries], server: type[Refusing], error: Exception
) -> None:
    await away("de")
    server.error = error
    worker = sender()

    first = await worker.run()
    server.error = None
    second = await worker.run()

    assert (first, second, len(mail.outbox)) == (0, 1, 1)


async def test_a_server_that_hangs_up_leaves_the_rest_for_later(
    sender: Callable[..., Summaries], server: type[Refusing]
) -> None:
    one, other = await away("de", "de")
    server.errors_of = {one.email or "": smtplib.SMTPServerDisconnected()}
    worker = sender()

    first = await worker.run()
    server.errors_of = {}
    second = await worker.run()

    assert (first, second) == (0, 2)
    assert {message.to[0] for message in mail.outbox} == {one.email, other.email}


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (smtplib.SMTPRecipientsRefused({"x": (550, b"no such user")}), False),
        (smtplib.SMTPRecipientsRefused({"x": (450, b"come back later")}), True),
        (smtplib.SMTPDataError(554, b"spam"), False),
        (smtplib.SMTPDataError(451, b"later"), True),
        (ValueError("no address"), False),
    ],
)
async def test_what_one_address_meets_concerns_nobody_else(
    sender: Callable[..., Summaries], server: type[Refusing], error: Exception, is_tried_again: bool
) -> None:
    one, other = await away("de", "de")
    server.errors_of = {one.email or "": error}
    worker = sender()

    await worker.run()
    sent = [message.to[0] for message in mail.outbox]
    server.errors_of = {}
    await worker.run()

    assert sent == [other.email]
    assert len(mail.outbox) == (2 if is_tried_again else 1)


# --- the page


def path_for(user: User, locale: str = "en") -> str:
    signed = signing.dumps([str(user.id), locale], salt=summaries.SALT)
    return f"/unsubscribe/{signed}"


def wants(user: User) -> bool:
    return User.objects.get(id=user.id).wants_summaries


@pytest.fixture
def browser() -> Client:
    return Client(enforce_csrf_checks=True)


def test_looking_at_the_page_changes_nothing(browser: Client) -> None:
    bea = make_user("Bea")

    for answer in (browser.get(path_for(bea)), browser.head(path_for(bea))):
        assert answer.status_code == 200
    assert wants(bea)


@pytest.mark.parametrize("body", [{"List-Unsubscribe": "One-Click"}, {}])
def test_posting_ends_the_mails_without_a_log_in(browser: Client, body: dict[str, str]) -> None:
    bea, cleo = make_user("Bea"), make_user("Cleo")

    answers = [browser.post(path_for(bea), body) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert b"You will get no more e-mails about unread messages." in answers[0].content
    assert (wants(bea), wants(cleo)) == (False, True)


async def test_the_link_of_a_mail_leads_there(sender: Callable[..., Summaries]) -> None:
    (bea,) = await away("fr")
    await sender().run()
    path = link_of(mail.outbox[0]).removeprefix(URL)

    page = await threads.run(Client().get, path)
    await threads.run(Client().post, path)

    assert "Se désabonner" in page.content.decode()
    assert '<html lang="fr">' in page.content.decode()
    assert not await threads.run(wants, bea)


def test_what_we_have_not_signed_for_this_is_nothing(browser: Client) -> None:
    bea = make_user("Bea")
    path = path_for(bea)
    others = [
        path[:-1] + ("A" if path[-1] != "A" else "B"),
        f"/unsubscribe/{bea.id}",
        f"/unsubscribe/{signing.dumps([str(bea.id), 'en'])}",
        "/unsubscribe/a:b:c",
        "/unsubscribe/%00",
    ]

    assert [browser.post(other).status_code for other in others] == [404] * len(others)
    assert wants(bea)


def test_an_account_that_is_gone_gets_no_mails_either(browser: Client) -> None:
    bea = make_user("Bea")
    path = path_for(bea)
    users.delete_account(actor=bea.id)

    assert browser.post(path).status_code == 200


def test_the_page_says_nothing_about_anybody_and_may_do_nothing_else(browser: Client) -> None:
    bea = make_user("Bea")

    answer = browser.get(path_for(bea, locale=f"<b>{uuid4()}"))

    assert str(bea.id) not in answer.content.decode()
    assert "<b>" not in answer.content.decode()
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert (answer["Referrer-Policy"], answer["Cache-Control"]) == ("no-referrer", "no-store")
    assert browser.delete(path_for(bea)).status_code == 405


def test_whoever_has_unsubscribed_may_come_back(browser: Client) -> None:
    bea = make_user("Bea")
    browser.post(path_for(bea))

    me = users.update_me(actor=bea.id, wants_summaries=True)

    assert me.wants_summaries
    assert wants(bea)


# --- the setting


def test_hours_need_an_address_to_link_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOST_SUMMARY_HOURS", "12")

    with pytest.raises(env.BadEnvironment, match="ROOST_PUBLIC_URL"):
        env.load.__wrapped__()
