"""Making, changing and deleting conversations, and what a member sets for themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from .. import channels, drafts, limits, payloads, streams
from ..conversation import Conversation, DeviceReceipt, Member
from ..device import CONTENTS
from ..errors import (
    CannotMessageYourself,
    DirectBlocked,
    GroupFull,
    InvalidInput,
    NotAnAdmin,
    UserNotFound,
    WrongConversationKind,
)
from ..events import ConversationChanged, ConversationDeleted, ConversationJoined, ConversationSettingsChanged
from ..fields import TransactionId
from ..message import Message
from ..queries import conversations as conversation_queries
from ..stream import Publication, Stream
from ..user import Block, User
from .loading import ADMINS, lock_as_admin, lock_as_member, lock_as_owner
from .system_messages import tell


@transaction.atomic
def create_direct(*, actor: UUID, user_id: UUID) -> payloads.ConversationPayload:
    """
    Return the direct conversation of two people, made if it does not exist; there is never a second one.

    Raises:
        CannotMessageYourself: ``user_id`` is the actor.
        UserNotFound: there is no such person.
        DirectBlocked: one of the two has blocked the other.
    """
    if actor == user_id:
        raise CannotMessageYourself
    if not User.objects.filter(id=user_id, is_active=True).exists():
        raise UserNotFound
    low, high = sorted((actor, user_id))
    pair = {"direct_low": low, "direct_high": high}
    existing = Conversation.objects.filter(**pair).first()
    if existing is None:
        if Block.between(actor, user_id).exists():
            raise DirectBlocked
        existing = _make_direct(pair, (low, high))
    Member.objects.filter(conversation=existing, user=actor, is_hidden=True).update(
        is_hidden=False, xid=TransactionId()
    )
    return conversation_queries.get_conversation(actor=actor, conversation_id=existing.id)


def _make_direct(pair: dict[str, UUID], people: Sequence[UUID]) -> Conversation:
    # Both persons' rows first: whoever races us waits here, and finds the conversation afterwards.
    streams.lock(channels.personal(person) for person in people)
    existing = Conversation.objects.filter(**pair).first()
    if existing:
        return existing
    conversation = Conversation.objects.create(kind=Conversation.Kind.DIRECT, member_count=2, **pair)
    _add_people(conversation, people, owner=None)
    return conversation


@transaction.atomic
def create_group(
    *, actor: UUID, title: str, member_ids: Sequence[UUID] = (), data: Any = None
) -> payloads.ConversationPayload:
    """
    Make a group of the actor, who owns it, and others.

    Raises:
        InvalidInput: the title or the data does not fit.
        UserNotFound: somebody does not exist.
        GroupFull: they are more than ``limits.MAX_GROUP_MEMBERS``.
    """
    people = list(dict.fromkeys([actor, *member_ids]))
    if len(people) > limits.MAX_GROUP_MEMBERS:
        raise GroupFull(limit=limits.MAX_GROUP_MEMBERS)
    if User.objects.filter(id__in=people, is_active=True).count() != len(people):
        raise UserNotFound
    streams.lock(channels.personal(person) for person in people)
    conversation = Conversation.objects.create(
        kind=Conversation.Kind.GROUP, title=_title(title), data=_data(data), member_count=len(people)
    )
    _add_people(conversation, people, owner=actor)
    tell(conversation, actor, "conversation.created")
    return conversation_queries.get_conversation(actor=actor, conversation_id=conversation.id)


@transaction.atomic
def create_feed(*, actor: UUID, title: str, data: Any = None) -> payloads.ConversationPayload:
    """
    Make a feed, which the actor owns and everyone may follow.

    Raises:
        InvalidInput: the title or the data does not fit.
    """
    streams.lock([channels.personal(actor)])
    conversation = Conversation.objects.create(
        kind=Conversation.Kind.FEED, title=_title(title), data=_data(data), member_count=1
    )
    _add_people(conversation, [actor], owner=actor)
    return conversation_queries.get_conversation(actor=actor, conversation_id=conversation.id)


@transaction.atomic
def rename(*, actor: UUID, conversation_id: UUID, title: str) -> payloads.ConversationPayload:
    """
    Give a group or feed another title.

    Raises:
        InvalidInput, ConversationNotFound, WrongConversationKind, NotAnAdmin
    """
    new_title = _title(title)
    conversation = lock_as_admin(actor, conversation_id).conversation
    if conversation.title != new_title:
        conversation.title = new_title
        conversation.save(update_fields=["title"])
        _tell_of_change(conversation, actor)
        if conversation.kind == Conversation.Kind.GROUP:
            tell(conversation, actor, "conversation.renamed", title=new_title)
    return conversation_queries.get_conversation(actor=actor, conversation_id=conversation_id)


@transaction.atomic
def set_data(*, actor: UUID, conversation_id: UUID, data: Any) -> payloads.ConversationPayload:
    """
    Replace the app's own data of a group or feed.

    Raises:
        InvalidInput, ConversationNotFound, WrongConversationKind, NotAnAdmin
    """
    new_data = _data(data)
    conversation = lock_as_admin(actor, conversation_id).conversation
    if conversation.data != new_data:
        conversation.data = new_data
        conversation.save(update_fields=["data"])
        _tell_of_change(conversation, actor)
    return conversation_queries.get_conversation(actor=actor, conversation_id=conversation_id)


@transaction.atomic
def set_push_content(*, actor: UUID, conversation_id: UUID, push_content: str) -> payloads.ConversationPayload:
    """
    Say how much pushes about a conversation may tell; empty for what the deployment says.

    Of a group or feed, its owners and admins; of a direct conversation either of the two, because what is told is what
    both wrote. Nobody's device tells more for it than its user, or the deployment, lets it.

    Raises:
        InvalidInput, ConversationNotFound, NotAnAdmin
    """
    if push_content not in ("", *dict(CONTENTS)):
        raise InvalidInput(f"One of {', '.join(dict(CONTENTS))} is expected, or nothing.")
    member = lock_as_member(actor, conversation_id)
    conversation = member.conversation
    if conversation.kind != Conversation.Kind.DIRECT and member.role not in ADMINS:
        raise NotAnAdmin
    if conversation.push_content != push_content:
        conversation.push_content = push_content
        conversation.save(update_fields=["push_content"])
        _tell_of_change(conversation, actor)
    return conversation_queries.get_conversation(actor=actor, conversation_id=conversation_id)


@transaction.atomic
def delete_conversation(*, actor: UUID, conversation_id: UUID) -> None:
    """
    Delete a group or feed, with all that was said in it, for everyone.

    Raises:
        ConversationNotFound, WrongConversationKind, NotAnOwner
    """
    conversation = lock_as_owner(actor, conversation_id).conversation
    streams.append(conversation.channel, ConversationDeleted(conversation=conversation.id, by=actor))
    erase(conversation)


def erase(conversation: Conversation) -> None:
    """Remove every row of a conversation; its stream must be locked."""
    for table in (Message, DeviceReceipt, Member):
        table._default_manager.filter(conversation=conversation).delete()
    Publication.objects.filter(stream_id=conversation.id).delete()
    Stream.objects.filter(id=conversation.id).delete()
    conversation.delete()


@transaction.atomic
def mute(
    *, actor: UUID, conversation_id: UUID, until: datetime | None, level: str | None = None
) -> payloads.ConversationPayload:
    """
    Be told less of a conversation: nothing until a time, or (``level``) only mentions, or nothing at all.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        InvalidInput: there is no such level, or the time has no zone.
    """
    if level is not None and level not in Member.Level.values:
        raise InvalidInput("A level is all, mentions or none.")
    if until is not None and until.tzinfo is None:
        raise InvalidInput("A time needs its zone.")
    member = lock_as_member(actor, conversation_id, persons=[actor])
    member.muted_until = until
    member.notification_level = level or member.notification_level
    _save_settings(member)
    return conversation_queries.get_conversation(actor=actor, conversation_id=conversation_id)


@transaction.atomic
def hide(*, actor: UUID, conversation_id: UUID) -> None:
    """
    Take a direct conversation off the actor's list, until its next message.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        WrongConversationKind: a group is left, not hidden.
    """
    member = lock_as_member(actor, conversation_id, persons=[actor])
    if member.conversation.kind != Conversation.Kind.DIRECT:
        raise WrongConversationKind
    if not member.is_hidden:
        member.is_hidden = True
        _save_settings(member)


def _save_settings(member: Member) -> None:
    Member.objects.filter(id=member.id).update(
        muted_until=member.muted_until,
        notification_level=member.notification_level,
        is_hidden=member.is_hidden,
        xid=TransactionId(),
    )
    streams.append(
        channels.personal(member.user_id),
        ConversationSettingsChanged(
            conversation=member.conversation_id,
            muted_until=member.muted_until,
            notification_level=member.notification_level,
            is_hidden=member.is_hidden,
        ),
    )


def _add_people(conversation: Conversation, people: Sequence[UUID], owner: UUID | None) -> None:
    """Make the stream and the first members of a new conversation, and tell their devices."""
    channel = conversation.channel
    streams.create(channel)
    Member.objects.bulk_create(
        Member(
            conversation=conversation,
            user_id=person,
            role=Member.Role.OWNER if person == owner else Member.Role.MEMBER,
        )
        for person in people
    )
    streams.append_all(
        [channels.personal(person) for person in people],
        ConversationJoined(conversation=conversation.id, channel=channel),
    )


def _tell_of_change(conversation: Conversation, actor: UUID) -> None:
    streams.append(
        conversation.channel,
        ConversationChanged(
            conversation=conversation.id,
            title=conversation.title,
            data=conversation.data,
            push_content=conversation.push_content,
            by=actor,
        ),
    )


def _title(title: str) -> str:
    stripped = title.strip()
    if not 1 <= len(stripped) <= limits.MAX_TITLE_CHARACTERS or not drafts.is_storable(stripped):
        raise InvalidInput(f"A title has 1 to {limits.MAX_TITLE_CHARACTERS} characters.")
    return stripped


def _data(data: Any) -> Any:
    drafts.json_text(data)
    return {} if data is None else data
