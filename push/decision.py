"""Whether a push is still wanted, asked just before it is sent. Pure: the rules, and the words for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from models.deliveries import CALL_SUBJECT, TEST_SUBJECT, DueClear, DuePush, Kind, kind_of_subject

from .quiet import quiet_until

# Nobody reads more; FCM takes 240 a minute and 5,000 an hour for one Android device.
# https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas
MAX_PUSHES_A_MINUTE = 60
CROWDED_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send it now."""

    kind: Kind


@dataclass(frozen=True, slots=True)
class Drop:
    """Nobody wants it any more, or it has nowhere to go."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not now. What ``defers`` waits for the end of quiet hours, and goes into one summary then."""

    reason: str
    seconds: float
    defers: bool = False


Decision = Send | Drop | Wait


def decide(due: DuePush, *, stale_after: timedelta) -> Decision:
    """What happens to a push; the first rule that speaks against it has the word."""
    if reason := next(_reasons(due, stale_after), None):
        return Drop(reason)
    if due.subject.startswith(TEST_SUBJECT):
        return Send(Kind.TEST)
    if due.subject.startswith(CALL_SUBJECT):
        # Whoever is not to be woken is not rung up either, and tomorrow nobody is calling any more.
        return Drop("quiet_hours") if _quiet_seconds(due) else Send(Kind.CALL)
    if has_news(due):
        return _now_or_later(due)
    if due.revised_at and due.shown_seq and due.previews:
        return Send(Kind.REVISION)
    return Drop(next(_reasons_for_nothing(due)))


def reason_to_drop_clear(due: DueClear) -> str | None:
    """The first rule that speaks against taking something off a screen, or None."""
    if due.device_user_id != due.user_id:
        return "device_gone"
    if due.is_session_revoked:
        return "logged_out"
    if not due.target:
        return "no_push_target"
    return None if due.conversations else "nothing_to_clear"


def kind_of(due: DuePush) -> Kind:
    """What a push is about, sent or not."""
    kind = kind_of_subject(due.subject)
    return Kind.REVISION if kind is Kind.ALERT and due.revised_at and not due.pending_seq else kind


def has_news(due: DuePush) -> bool:
    """Whether there is something to show that this device has neither been told nor acknowledged."""
    known = max(due.sent_seq, due.delivered_seq or 0)
    return due.pending_seq > 0 and bool(due.previews) and due.previews[-1].seq > known


def _now_or_later(due: DuePush) -> Decision:
    if seconds := _quiet_seconds(due):
        return Wait("quiet_hours", seconds, defers=True)
    if due.pushes_in_last_minute >= MAX_PUSHES_A_MINUTE:
        return Wait("too_many_pushes", CROWDED_SECONDS)
    return Send(Kind.ALERT)


def _quiet_seconds(due: DuePush) -> float:
    end = quiet_until(due.now, due.time_zone, due.quiet_from, due.quiet_until)
    return (end - due.now).total_seconds() if end else 0.0


def _reasons(due: DuePush, stale_after: timedelta) -> Iterator[str]:
    if due.expires_at <= due.now:
        yield "expired"
    yield from _about_the_device(due, stale_after)
    if not due.is_user_active:
        yield "not_a_member"
    if not due.subject.startswith(TEST_SUBJECT):
        yield from _about_the_member(due)


def _about_the_device(due: DuePush, stale_after: timedelta) -> Iterator[str]:
    if due.device_user_id != due.user_id:
        yield "device_gone"
    if due.is_session_revoked:
        yield "logged_out"
    if not due.target:
        yield "no_push_target"
    if due.device_seen_at is not None and due.now - due.device_seen_at > stale_after:
        yield "stale_device"


def _about_the_member(due: DuePush) -> Iterator[str]:
    if due.joined_seq is None or (not due.subject and due.joined_seq >= max(due.pending_seq, due.shown_seq)):
        yield "not_a_member"
    if due.notification_level == "none":
        yield "notifications_off"
    if due.subject and due.is_sender_blocked:
        yield "sender_blocked"


def _reasons_for_nothing(due: DuePush) -> Iterator[str]:
    """Why nothing of what is pending may be shown, by its newest message."""
    if due.message_id is None or due.message_deleted_at is not None:
        yield "message_deleted"
    if due.message_kind == "system":
        yield "system_message"
    if due.delivered_seq is not None and due.delivered_seq >= due.pending_seq:
        yield "acknowledged"
    if due.read_seq is not None and due.read_seq >= due.pending_seq:
        yield "read"
    if due.is_sender_blocked:
        yield "sender_blocked"
    if due.notification_level == "mentions" and not due.is_mentioned:
        yield "mentions_only"
    if due.muted_until is not None and due.muted_until > due.now and not due.is_mentioned:
        yield "muted"
    yield "nothing_new"
