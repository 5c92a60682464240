"""
Mails about what has been unread for long, and the page that ends them.

How many messages in how many conversations is all that a mail says: what is in them is nobody's business on the way.
The link of a mail unsubscribes without a log-in, and so does the button that mail programs show (RFC 8058); only a POST
does, because scanners open every link.
"""

from __future__ import annotations

import asyncio
import smtplib
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import cache
from time import monotonic
from uuid import UUID

import structlog
from django.conf import settings
from django.core import signing
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseNotFound
from django.utils.html import format_html
from django.views.decorators.csrf import csrf_exempt

from models import threads
from models.errors import UserNotFound
from models.operations import summaries, users
from models.operations.summaries import FIRST, Summary
from push.words import BadWords, Dictionary, Words

from .env import Env

log = structlog.get_logger("summaries")

# Bound to this purpose: no other signed text of ours is taken for it.
SALT = "roost.summaries.unsubscribe"
# One run may take so long; it goes on where it stopped.
RUN_SECONDS = 60.0
# After everybody was looked at: who waits for hours does not mind, and the database has better things to do.
REST_SECONDS = 900.0
# A form that leads to ourselves, and nothing else.
POLICY = "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

Live = Callable[[Sequence[UUID]], Awaitable[Collection[UUID] | None]]


class Summaries:
    """Sends the mails that are due. One for each worker: it remembers how far it has looked through the people."""

    def __init__(self, env: Env, dictionary: Dictionary, live: Live) -> None:
        self._hours = env.summary_hours
        self._public_url = env.public_url.rstrip("/")
        self._dictionary = dictionary
        self._live = live
        self._after = FIRST
        self._rests_until = 0.0

    async def run(self) -> int:
        """
        Send what is due, for some time at most; return how many mails were sent.

        Raises:
            django.db.Error, models.errors.Unavailable
        """
        count, end = 0, monotonic() + RUN_SECONDS
        while self._hours and self._rests_until < monotonic() < end:
            claimed = await threads.run(summaries.claim, hours=self._hours, after=self._after)
            self._after = claimed.after or FIRST
            due = await self._without_the_connected(claimed.summaries)
            # In a thread that holds no database connection: mail servers take their time.
            unsent = await asyncio.to_thread(self._send, due, end) if due else []
            await self._release(unsent)
            count += len(due) - len(unsent)
            if unsent:
                break
            if claimed.after is None:
                self._rests_until = monotonic() + REST_SECONDS
        return count

    async def _without_the_connected(self, claimed: list[Summary]) -> list[Summary]:
        """Whoever has a socket open sees what waits; while nobody knows who has, nobody is written to."""
        live = await self._live([id for summary in claimed for id in summary.device_ids]) if claimed else ()
        away = [] if live is None else [summary for summary in claimed if not set(summary.device_ids) & set(live)]
        await self._release([summary for summary in claimed if summary not in away])
        return away

    async def _release(self, unsent: list[Summary]) -> None:
        for summary in unsent:
            await threads.run(summaries.release, summary)

    def _send(self, due: list[Summary], end: float) -> list[Summary]:
        """Send mails over one connection; return those that are to be tried again."""
        unsent: list[Summary] = []
        waiting = deque(due)
        try:
            with get_connection() as connection:
                while waiting and monotonic() < end:
                    if not self._is_settled(connection, waiting[0]):
                        unsent.append(waiting[0])
                    waiting.popleft()
        except (smtplib.SMTPException, OSError) as error:
            log.warning("summaries.no_mail_server", error=type(error).__name__)
        return [*unsent, *waiting]

    def _is_settled(self, connection: BaseEmailBackend, summary: Summary) -> bool:
        """Send one mail. What is refused for good is settled too: in five minutes it would be refused again."""
        try:
            connection.send_messages([self._mail(summary)])
        except smtplib.SMTPRecipientsRefused as refused:
            codes = [code for code, _ in refused.recipients.values()]
        except smtplib.SMTPDataError as refused:
            codes = [refused.smtp_code]
        except ValueError:
            # An address that no mail can bear.
            codes = []
        else:
            return True
        log.warning("summaries.refused", user=str(summary.user_id), codes=codes)
        return min(codes, default=500) >= 500

    def _mail(self, summary: Summary) -> EmailMessage:
        words = self._dictionary.words_of(summary.locale)
        told = words.messages_in_conversations(summary.messages, summary.conversations)
        stop = f"{self._public_url}/unsubscribe/{_signed(summary)}"
        return EmailMessage(
            subject=told,
            body=f"{words.summary_title}\n\n{told}\n{self._public_url}/\n\n--\n{words.no_more_mails}\n{stop}\n",
            to=[summary.email],
            headers={
                "List-Unsubscribe": f"<{stop}>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
                # No vacation notices, please.
                "Auto-Submitted": "auto-generated",
            },
        )


# What posts here is a mail provider, or a person without a cookie of ours; the signature is what lets them.
@csrf_exempt
async def unsubscribe(request: HttpRequest, signed: str) -> HttpResponse:
    """The page behind a mail's link; posting to it ends the mails."""
    try:
        user, locale = signing.loads(signed, salt=SALT)
    except signing.BadSignature:
        return HttpResponseNotFound()
    words = _dictionary().words_of(locale)
    if request.method in ("GET", "HEAD"):
        return _page(words, words.no_more_mails, button=words.unsubscribe)
    if request.method != "POST":
        return HttpResponseNotAllowed(["GET", "HEAD", "POST"])
    # Whose account is gone gets no mails either.
    with suppress(UserNotFound):
        await threads.run(users.update_me, actor=UUID(user), wants_summaries=False)
    return _page(words, words.unsubscribed)


def _signed(summary: Summary) -> str:
    # It does not expire: old mails are where people look for it.
    return signing.dumps([str(summary.user_id), summary.locale], salt=SALT)


def _page(words: Words, text: str, *, button: str = "") -> HttpResponse:
    form = format_html('<form method="post"><button>{}</button></form>', button) if button else ""
    page = format_html(
        '<!doctype html><html lang="{}"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>{}</title><body dir="auto"><h1 dir="auto">{}</h1>{}</body></html>',
        words.language,
        text,
        text,
        form,
    )
    response = HttpResponse(page)
    response["Content-Security-Policy"] = POLICY
    response["Cache-Control"] = "no-store"
    # The address is as good as a log-in for this one thing.
    response["Referrer-Policy"] = "no-referrer"
    return response


@cache
def _dictionary() -> Dictionary:
    env: Env = settings.ROOST
    try:
        return Dictionary.of(env.push_locales)
    except BadWords as error:
        # The worker refuses to start over it; whoever wants no mails any more gets their page all the same.
        log.warning("summaries.bad_words", error=str(error))
        return Dictionary()
