"""How operations load a conversation: through the actor's membership, under the lock of its stream."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from .. import channels, streams
from ..conversation import Conversation, Member
from ..errors import ConversationNotFound, NotAnAdmin, NotAnOwner, WrongConversationKind

ADMINS = (Member.Role.OWNER, Member.Role.ADMIN)


def lock_as_member(actor: UUID, conversation_id: UUID, *, persons: Iterable[UUID] = ()) -> Member:
    """
    Lock a conversation's stream, and these persons' after it, and return the actor's membership as it is then.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
    """
    kind = Conversation.objects.filter(id=conversation_id).values_list("kind", flat=True).first()
    # What does not exist takes the same statements as what is none of the actor's business.
    channel = channels.of_conversation(kind or Conversation.Kind.GROUP, conversation_id)
    streams.lock([channel, *(channels.personal(person) for person in persons)])
    member = Member.objects.select_related("conversation").filter(conversation=conversation_id, user=actor).first()
    if member is None:
        raise ConversationNotFound
    return member


def lock_as_admin(actor: UUID, conversation_id: UUID, *, persons: Iterable[UUID] = ()) -> Member:
    """
    The same for what only owners and admins of a group or feed may do.

    Raises:
        ConversationNotFound: it does not exist, or not for ``actor``.
        WrongConversationKind: it is a direct conversation.
        NotAnAdmin: ``actor`` is an ordinary member.
    """
    member = lock_as_member(actor, conversation_id, persons=persons)
    if member.conversation.kind == Conversation.Kind.DIRECT:
        raise WrongConversationKind
    if member.role not in ADMINS:
        raise NotAnAdmin
    return member


def lock_as_owner(actor: UUID, conversation_id: UUID, *, persons: Iterable[UUID] = ()) -> Member:
    """
    The same for what only owners may do.

    Raises:
        ConversationNotFound, WrongConversationKind, NotAnOwner
    """
    member = lock_as_member(actor, conversation_id, persons=persons)
    if member.conversation.kind == Conversation.Kind.DIRECT:
        raise WrongConversationKind
    if member.role != Member.Role.OWNER:
        raise NotAnOwner
    return member
