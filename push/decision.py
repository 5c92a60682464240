"""Whether a push is still wanted; asked just before it is sent. Pure: the rules, and the words for them."""

from __future__ import annotations

from collections.abc import Iterator

from models.deliveries import DueDelivery


def reason_to_drop(delivery: DueDelivery) -> str | None:
    """The first rule that speaks against this push, or None if it should be sent."""
    return next(_reasons(delivery), None)


def _reasons(delivery: DueDelivery) -> Iterator[str]:
    yield from _about_the_message(delivery)
    yield from _about_the_device(delivery)
    yield from _about_the_member(delivery)


def _about_the_message(delivery: DueDelivery) -> Iterator[str]:
    if delivery.expires_at <= delivery.now:
        yield "expired"
    if delivery.message_kind is None or delivery.message_deleted_at is not None:
        yield "message_deleted"
    if delivery.message_kind == "system":
        yield "system_message"


def _about_the_device(delivery: DueDelivery) -> Iterator[str]:
    if delivery.device_user_id != delivery.user_id:
        yield "device_gone"
    if delivery.is_session_revoked:
        yield "logged_out"
    if not delivery.target:
        yield "no_push_target"
    if delivery.delivered_seq is not None and delivery.delivered_seq >= delivery.seq:
        yield "acknowledged"


def _about_the_member(delivery: DueDelivery) -> Iterator[str]:
    if delivery.joined_seq is None or delivery.joined_seq >= delivery.seq or not delivery.is_user_active:
        yield "not_a_member"
    if delivery.read_seq is not None and delivery.read_seq >= delivery.seq:
        yield "read"
    if delivery.is_sender_blocked:
        yield "sender_blocked"
    yield from _about_the_level(delivery)


def _about_the_level(delivery: DueDelivery) -> Iterator[str]:
    if delivery.notification_level == "none":
        yield "notifications_off"
    # A mention breaks through a mute and through the level "mentions", never through "none".
    if delivery.is_mentioned:
        return
    if delivery.notification_level == "mentions":
        yield "mentions_only"
    if delivery.muted_until is not None and delivery.muted_until > delivery.now:
        yield "muted"
