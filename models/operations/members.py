"""Coming to a conversation, leaving it, and what one may do there."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import Case, F, IntegerField, QuerySet, Value, When

from .. import channels, limits, payloads, screens, streams
from ..conversation import Conversation, DeviceReceipt, Member
from ..device import Device
from ..errors import (
    ConversationNotFound,
    GroupFull,
    InvalidInput,
    MemberNotFound,
    NotAnAdmin,
    UserNotFound,
    WrongConversationKind,
)
from ..events import ConversationJoined, ConversationLeft, MemberAdded, MemberRemoved, MemberRoleChanged
from ..fields import TransactionId
from ..stream import Stream
from ..user import User
from .conversations import erase
from .loading import lock_as_admin, lock_as_member, lock_as_owner
from .system_messages import tell


@transaction.atomic
def add_member(*, actor: UUID, conversation_id: UUID, user_id: UUID) -> payloads.MemberPayload:
    """
    Add somebody to a group. Adding a member again changes nothing.

    Raises:
        ConversationNotFound, WrongConversationKind, NotAnAdmin
        UserNotFound: there is no such person.
        GroupFull: it has ``limits.MAX_GROUP_MEMBERS`` members.
    """
    conversation = lock_as_admin(actor, conversation_id, persons=[user_id]).conversation
    if conversation.kind == Conversation.Kind.FEED:
        raise WrongConversationKind
    existing = Member.objects.select_related("user").filter(conversation=conversation, user=user_id).first()
    if existing:
        return payloads.member(existing)
    if not User.objects.filter(id=user_id, is_active=True).exists():
        raise UserNotFound
    if conversation.member_count >= limits.MAX_GROUP_MEMBERS:
        raise GroupFull(limit=limits.MAX_GROUP_MEMBERS)
    member = _join(conversation, user_id)
    _tell_of_joining(conversation, user_id, actor)
    tell(conversation, actor, "member.added", user=user_id)
    return payloads.member(member)


@transaction.atomic
def remove_member(*, actor: UUID, conversation_id: UUID, user_id: UUID) -> None:
    """
    Remove somebody from a group or feed; from then on it does not exist for them.

    Raises:
        ConversationNotFound, WrongConversationKind
        NotAnAdmin: ``actor`` may not, or the other is an owner and ``actor`` is none.
        MemberNotFound: there is no such member.
    """
    actors = lock_as_admin(actor, conversation_id, persons=[user_id])
    member = Member.objects.filter(conversation=conversation_id, user=user_id).first()
    if member is None:
        raise MemberNotFound
    if member.role == Member.Role.OWNER and actors.role != Member.Role.OWNER:
        raise NotAnAdmin
    _part(actors.conversation, member, by=actor)


@transaction.atomic
def leave(*, actor: UUID, conversation_id: UUID) -> None:
    """
    Leave a group or feed. An owner who is the last hands it to the longest-standing admin, else member.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        WrongConversationKind: a direct conversation can be hidden, not left.
    """
    member = lock_as_member(actor, conversation_id, persons=[actor])
    if member.conversation.kind == Conversation.Kind.DIRECT:
        raise WrongConversationKind
    _part(member.conversation, member, by=None)


@transaction.atomic
def change_role(*, actor: UUID, conversation_id: UUID, user_id: UUID, role: str) -> payloads.MemberPayload:
    """
    Make somebody owner, admin or ordinary member.

    Raises:
        ConversationNotFound, WrongConversationKind, NotAnOwner, MemberNotFound
        InvalidInput: there is no such role, or a group would be left without an owner.
    """
    if role not in Member.Role.values:
        raise InvalidInput("A role is owner, admin or member.")
    conversation = lock_as_owner(actor, conversation_id).conversation
    member = Member.objects.select_related("user").filter(conversation=conversation, user=user_id).first()
    if member is None:
        raise MemberNotFound
    if member.role == role:
        return payloads.member(member)
    if member.role == Member.Role.OWNER and not _owners(conversation).exclude(id=member.id).exists():
        raise InvalidInput("A conversation needs an owner.")
    _set_role(conversation, member, role, by=actor)
    return payloads.member(member)


@transaction.atomic
def follow(*, actor: UUID, conversation_id: UUID) -> None:
    """
    Follow a feed. Again, it changes nothing.

    Raises:
        ConversationNotFound: there is no such feed.
    """
    locked = streams.lock([channels.feed(conversation_id), channels.personal(actor)])
    conversation = Conversation.objects.filter(id=conversation_id, kind=Conversation.Kind.FEED).first()
    if conversation is None or conversation.channel not in locked:
        raise ConversationNotFound
    if not Member.objects.filter(conversation=conversation, user=actor).exists():
        # Who follows is told when they look; who wants more asks for it.
        _join(conversation, actor, level=Member.Level.NONE)
        # A feed of thousands is not told of each follower; their own devices are.
        streams.append(
            channels.personal(actor), ConversationJoined(conversation=conversation_id, channel=conversation.channel)
        )


@transaction.atomic
def unfollow(*, actor: UUID, conversation_id: UUID) -> None:
    """
    Follow a feed no longer; who owns it leaves it in the same way.

    Raises:
        ConversationNotFound: there is no such feed, or ``actor`` does not follow it.
    """
    member = lock_as_member(actor, conversation_id, persons=[actor])
    if member.conversation.kind != Conversation.Kind.FEED:
        raise ConversationNotFound
    _part(member.conversation, member, by=None)


def _join(conversation: Conversation, user_id: UUID, *, level: str = Member.Level.ALL) -> Member:
    # Whoever joins begins at the top: nothing before is unread, or recovered.
    top = Stream.objects.values_list("top", flat=True).get(id=conversation.id)
    member = Member.objects.create(
        conversation=conversation,
        user_id=user_id,
        joined_seq=top,
        read_seq=top,
        delivered_seq=top,
        notification_level=level,
    )
    member.refresh_from_db(fields=["joined_at"])
    _count(conversation, 1)
    return member


def _tell_of_joining(conversation: Conversation, user_id: UUID, actor: UUID) -> None:
    streams.append(
        conversation.channel,
        MemberAdded(conversation=conversation.id, user=user_id, role=Member.Role.MEMBER, by=actor),
    )
    streams.append(
        channels.personal(user_id), ConversationJoined(conversation=conversation.id, channel=conversation.channel)
    )


def _part(conversation: Conversation, member: Member, *, by: UUID | None) -> None:
    """End a membership; the streams of the conversation and of the person must be locked."""
    was_owner = member.role == Member.Role.OWNER
    user_id = member.user_id
    member.delete()
    DeviceReceipt.objects.filter(
        conversation=conversation, device__in=Device.objects.filter(user=user_id).values("id")
    ).delete()
    _count(conversation, -1)
    screens.clear_all(user_id, conversation.id)
    if conversation.kind == Conversation.Kind.GROUP:
        tell(conversation, by or user_id, "member.removed" if by else "member.left", user=user_id)
    streams.append(conversation.channel, MemberRemoved(conversation=conversation.id, user=user_id, by=by))
    streams.append(
        channels.personal(user_id), ConversationLeft(conversation=conversation.id, channel=conversation.channel)
    )
    if conversation.member_count == 0:
        erase(conversation)
    elif was_owner and not _owners(conversation).exists():
        _set_role(conversation, _heir(conversation), Member.Role.OWNER, by=None)


def _heir(conversation: Conversation) -> Member:
    """The longest-standing admin, else the longest-standing member."""
    rank = Case(When(role=Member.Role.ADMIN, then=Value(0)), default=Value(1), output_field=IntegerField())
    return Member.objects.filter(conversation=conversation).order_by(rank, "joined_at", "id")[0]


def _owners(conversation: Conversation) -> QuerySet[Member]:
    return Member.objects.filter(conversation=conversation, role=Member.Role.OWNER)


def _set_role(conversation: Conversation, member: Member, role: str, *, by: UUID | None) -> None:
    member.role = role
    Member.objects.filter(id=member.id).update(role=role, xid=TransactionId())
    streams.append(
        conversation.channel,
        MemberRoleChanged(conversation=conversation.id, user=member.user_id, role=role, by=by),
    )


def _count(conversation: Conversation, change: int) -> None:
    Conversation.objects.filter(id=conversation.id).update(member_count=F("member_count") + change)
    conversation.member_count += change
