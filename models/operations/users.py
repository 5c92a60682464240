"""What people do with themselves and with each other: profile, blocks, the end of an account."""

from __future__ import annotations

import re
from datetime import time
from functools import cache
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from django.db import transaction
from msgspec import UNSET, UnsetType

from .. import channels, drafts, limits, payloads, streams
from ..conversation import Conversation, DeviceReceipt, Member
from ..device import Device
from ..errors import InvalidInput, UserNotFound
from ..events import UserBlocked, UserChanged, UserDeleted, UserUnblocked
from ..user import Block, User
from . import members

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


@transaction.atomic
def update_me(
    *,
    actor: UUID,
    name: str | UnsetType = UNSET,
    data: Any = UNSET,
    quiet_hours: payloads.QuietHours | UnsetType | None = UNSET,
    wants_summaries: bool | UnsetType = UNSET,
) -> payloads.MePayload:
    """
    Change one's name, the app's data about oneself, one's quiet hours (None removes them), or whether one wants mails
    about unread messages; what is not given stays.

    Raises:
        InvalidInput: the name is empty, too long, or cannot be stored; the hours are none, or their zone is unknown.
        DataTooLarge: the data is.
        UserNotFound: the account is gone.
    """
    streams.lock([channels.personal(actor)])
    user = User.objects.filter(id=actor).first()
    if user is None:
        raise UserNotFound
    if name is not UNSET:
        user.name = _name(name)
    if data is not UNSET:
        drafts.json_text(data)
        user.data = {} if data is None else data
    if quiet_hours is not UNSET:
        _set_quiet_hours(user, quiet_hours)
    if wants_summaries is not UNSET:
        user.wants_summaries = wants_summaries
    user.save(update_fields=["name", "data", "time_zone", "quiet_from", "quiet_until", "wants_summaries"])
    streams.append(channels.personal(actor), UserChanged(user=actor))
    return payloads.me(user)


def ensure_external(*, external_id: str) -> UUID | None:
    """
    Return the user whom the app's own backend calls so, made if there is none yet; None if they may not be here.

    Raises:
        InvalidInput: the name is too long, or cannot be stored.
    """
    if not 1 <= len(external_id) <= limits.MAX_EXTERNAL_ID_CHARACTERS or not drafts.is_storable(external_id):
        raise InvalidInput(f"An external id has 1 to {limits.MAX_EXTERNAL_ID_CHARACTERS} characters.")
    found = User.objects.filter(external_id=external_id).values_list("id", "is_active")
    if not found.exists():
        made = User(external_id=external_id)
        made.set_unusable_password()
        # Whoever is made twice at once is made once.
        User.objects.bulk_create([made], ignore_conflicts=True)
    id, is_active = found.get()
    return id if is_active else None


@transaction.atomic
def block(*, actor: UUID, user_id: UUID) -> None:
    """
    Want nothing from somebody any more: no direct messages in either direction, no push. Again, it changes nothing.

    Raises:
        UserNotFound: there is no such person.
        InvalidInput: it is oneself.
    """
    if actor == user_id:
        raise InvalidInput("Nobody can block themselves.")
    if not User.objects.filter(id=user_id).exists():
        raise UserNotFound
    _lock_with_direct(actor, user_id)
    _, is_new = Block.objects.get_or_create(blocker_id=actor, blocked_id=user_id)
    if is_new:
        streams.append(channels.personal(actor), UserBlocked(user=user_id))


@transaction.atomic
def unblock(*, actor: UUID, user_id: UUID) -> None:
    """Take a block back; without one it changes nothing."""
    _lock_with_direct(actor, user_id)
    count, _ = Block.objects.filter(blocker=actor, blocked=user_id).delete()
    if count:
        streams.append(channels.personal(actor), UserUnblocked(user=user_id))


@transaction.atomic
def delete_account(*, actor: UUID) -> None:
    """
    Remove a person: account, devices, sessions, tokens and memberships. What they wrote stays, by "deleted user".

    Raises:
        UserNotFound: it is gone already.
    """
    user = User.objects.filter(id=actor).first()
    if user is None:
        raise UserNotFound
    for conversation_id in Member.objects.filter(user=actor, conversation__kind__in=("group", "feed")).values_list(
        "conversation_id", flat=True
    ):
        members.leave(actor=actor, conversation_id=conversation_id)
    personal = channels.personal(actor)
    streams.lock([personal])
    streams.append(personal, UserDeleted(user=actor))
    devices = Device.objects.filter(user=actor)
    DeviceReceipt.objects.filter(device__in=devices.values("id")).delete()
    # The other person of a direct conversation keeps it, and the messages.
    Member.objects.filter(user=actor).delete()
    user.delete()


def _lock_with_direct(actor: UUID, other: UUID) -> None:
    # A message that is being sent to the other is ordered against the block by the conversation's own row.
    low, high = sorted((actor, other))
    direct = Conversation.objects.filter(direct_low=low, direct_high=high).values_list("id", flat=True).first()
    streams.lock([*([channels.chat(direct)] if direct else []), channels.personal(actor)])


def _name(name: str) -> str:
    stripped = name.strip()
    if not 1 <= len(stripped) <= limits.MAX_NAME_CHARACTERS or not drafts.is_storable(stripped):
        raise InvalidInput(f"A name has 1 to {limits.MAX_NAME_CHARACTERS} characters.")
    return stripped


def _set_quiet_hours(user: User, hours: payloads.QuietHours | None) -> None:
    if hours is None:
        user.time_zone, user.quiet_from, user.quiet_until = "", None, None
        return
    start, until = _clock(hours.start), _clock(hours.until)
    if start == until:
        raise InvalidInput("Quiet hours begin and end at different times.")
    if hours.time_zone not in _time_zones():
        raise InvalidInput("A time zone has a name like Europe/Berlin.")
    user.time_zone, user.quiet_from, user.quiet_until = hours.time_zone, start, until


def _clock(text: str) -> time:
    match = _CLOCK.fullmatch(text)
    if match is None:
        raise InvalidInput("A time of the day has the form 22:00.")
    return time(int(match[1]), int(match[2]))


@cache
def _time_zones() -> set[str]:
    # The machine's own zone would be another one on the worker's machine.
    return available_timezones() - {"localtime"}
