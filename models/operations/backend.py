"""
What the app's own backend does to the chat: in the name of people, of a conversation's owner, or of the system.

It calls people and conversations what it likes (``external_id``), and by our ids where it knows them. Everything may be
done again: it changes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q
from msgspec import UNSET, UnsetType

from .. import drafts, limits, payloads, streams
from ..conversation import Conversation, Member
from ..errors import BadClientId, ConversationNotFound, InvalidInput, UserNotFound
from ..ids import new_id
from ..message import Message
from ..queries import messages as message_queries
from ..user import User
from . import conversations, members, messages, sessions, users
from .sessions import OpenedSession


def ensure_user(*, user: str, name: str | UnsetType = UNSET, data: Any = UNSET) -> payloads.UserPayload:
    """
    Make the user whom the backend calls so, or change them; what is not given stays.

    Raises:
        InvalidInput, DataTooLarge
    """
    id = users.ensure_external(external_id=user)
    if id is None:
        raise InvalidInput("This user has been deactivated.")
    if name is not UNSET or data is not UNSET:
        users.update_me(actor=id, name=name, data=data)
    return payloads.user(User.objects.get(id=id))


def show_user(*, user: str) -> payloads.UserPayload:
    """
    Show a user.

    Raises:
        UserNotFound
    """
    return payloads.user(_user(user))


def log_in(*, user: str, install_id: str = "", platform: str = "", name: str = "") -> OpenedSession:
    """
    Begin a session for a user on a device, as a log-in does; again with the same ``install_id`` it is the same device.

    Raises:
        UserNotFound
    """
    return sessions.open_session(user_id=_user(user).id, install_id=install_id, platform=platform, name=name)


def delete_user(*, user: str) -> None:
    """Remove a person as they remove themselves; whoever is gone stays so."""
    found = User.objects.filter(_called(user)).first()
    if found is not None:
        users.delete_account(actor=found.id)


def ensure_conversation(
    *,
    conversation: str,
    kind: str,
    members: Sequence[str] = (),
    title: str = "",
    data: Any = UNSET,
) -> payloads.BackendConversation:
    """
    Make a conversation, or change its title and data. The first of the members owns it; who is in one already stays.

    Raises:
        InvalidInput: there is no such kind, or it needs other members.
        UserNotFound: somebody does not exist.
    """
    if not 1 <= len(conversation) <= limits.MAX_EXTERNAL_ID_CHARACTERS or not drafts.is_storable(conversation):
        raise InvalidInput(f"An external id has 1 to {limits.MAX_EXTERNAL_ID_CHARACTERS} characters.")
    found = Conversation.objects.filter(external_id=conversation).first()
    if found is None:
        people = [_user(name).id for name in members]
        try:
            found = _make(conversation, kind, people, title, data)
        except IntegrityError:
            # Somebody else was first.
            found = Conversation.objects.get(external_id=conversation)
    elif found.kind != kind:
        raise InvalidInput("A conversation does not change its kind.")
    if found.kind != Conversation.Kind.DIRECT:
        owner = _owner(found)
        if title:
            conversations.rename(actor=owner, conversation_id=found.id, title=title)
        if data is not UNSET:
            conversations.set_data(actor=owner, conversation_id=found.id, data=data)
    return _shown(Conversation.objects.get(id=found.id))


@transaction.atomic
def _make(external_id: str, kind: str, people: Sequence[UUID], title: str, data: Any) -> Conversation:
    if not people or (kind == "direct" and len(people) != 2):
        raise InvalidInput("A conversation needs its members: the owner first, and two for a direct one.")
    owner, *others = people
    given = None if data is UNSET else data
    match kind:
        case "direct":
            made = conversations.create_direct(actor=owner, user_id=others[0])
        case "group":
            made = conversations.create_group(actor=owner, title=title, member_ids=others, data=given)
        case "feed":
            made = conversations.create_feed(actor=owner, title=title, data=given)
            for follower in others:
                members.follow(actor=follower, conversation_id=made.id)
        case _:
            raise InvalidInput("A kind is direct, group or feed.")
    Conversation.objects.filter(id=made.id, external_id=None).update(external_id=external_id)
    return Conversation.objects.get(id=made.id)


def show_conversation(*, conversation: str) -> payloads.BackendConversation:
    """
    Show a conversation.

    Raises:
        ConversationNotFound
    """
    return _shown(_conversation(conversation))


def delete_conversation(*, conversation: str) -> None:
    """
    Delete a group or feed with all that was said in it; what is gone stays so.

    Raises:
        WrongConversationKind: it is a direct one.
    """
    found = Conversation.objects.filter(_called(conversation)).first()
    if found is not None:
        conversations.delete_conversation(actor=_owner(found), conversation_id=found.id)


def add_member(*, conversation: str, user: str) -> payloads.MemberPayload:
    """
    Add somebody to a group, in the name of its owner; to a feed, as a follower.

    Raises:
        ConversationNotFound, UserNotFound, WrongConversationKind, GroupFull
    """
    found, person = _conversation(conversation), _user(user)
    if found.kind == Conversation.Kind.FEED:
        members.follow(actor=person.id, conversation_id=found.id)
        return payloads.member(Member.objects.select_related("user").get(conversation=found, user=person))
    return members.add_member(actor=_owner(found), conversation_id=found.id, user_id=person.id)


def remove_member(*, conversation: str, user: str) -> None:
    """
    Remove somebody from a group or feed; who is none of its members stays so. An owner leaves by it.

    Raises:
        ConversationNotFound, WrongConversationKind
    """
    found = _conversation(conversation)
    person = User.objects.filter(_called(user)).first()
    if person is None or not Member.objects.filter(conversation=found, user=person).exists():
        return
    owner = _owner(found)
    if owner == person.id:
        members.leave(actor=owner, conversation_id=found.id)
    else:
        members.remove_member(actor=owner, conversation_id=found.id, user_id=person.id)


def send(
    *,
    conversation: str,
    client_id: str,
    sender: str | None = None,
    text: str | None = None,
    data: Any = None,
    reply_to: UUID | None = None,
) -> payloads.MessagePayload:
    """
    Send as a member, or without ``sender`` as the system. The same ``client_id`` again is the same message.

    Raises:
        ConversationNotFound, UserNotFound, PostingNotAllowed, DirectBlocked, ReplyTargetGone, InvalidInput
    """
    found = _conversation(conversation)
    if sender is None:
        return _send_as_system(found, client_id, text, data)
    stored = messages.send_message(
        actor=_user(sender).id,
        conversation_id=found.id,
        client_id=client_id,
        text=text,
        data=data,
        reply_to=reply_to,
    )
    return payloads.message(Message.objects.get(id=stored.id))


@transaction.atomic
def _send_as_system(conversation: Conversation, client_id: str, text: str | None, data: Any) -> payloads.MessagePayload:
    checked_text, _ = drafts.check_content(text, data, ())
    if not 1 <= len(client_id) <= limits.MAX_CLIENT_ID_CHARACTERS or not drafts.is_storable(client_id):
        raise BadClientId
    if not streams.lock([conversation.channel]):
        raise ConversationNotFound
    first = Message.objects.filter(conversation=conversation, sender_id=None, client_id=client_id).first()
    if first is not None:
        return payloads.message(first)
    message = Message(
        id=new_id(),
        conversation=conversation,
        kind=Message.Kind.SYSTEM,
        client_id=client_id,
        text=checked_text or None,
        data=data,
    )
    streams.append_message(message, payloads.MessageSent)
    message.refresh_from_db()
    return payloads.message(message)


def history(
    *, conversation: str, before: int | None = None, after: int | None = None, limit: int = limits.DEFAULT_PAGE
) -> payloads.MessagePage:
    """
    Read the messages of a conversation, whoever may see them: next to a seq, or the newest; oldest first.

    Raises:
        ConversationNotFound, InvalidInput
    """
    return message_queries.page(
        conversation_id=_conversation(conversation).id, floor=0, before=before, after=after, limit=limit
    )


# --- by either name


def _called(name: str) -> Q:
    """What the backend calls so; our own ids are known too."""
    try:
        return Q(external_id=name) | Q(id=UUID(name))
    except ValueError:
        return Q(external_id=name)


def _user(name: str) -> User:
    found = User.objects.filter(_called(name), is_active=True).first()
    if found is None:
        raise UserNotFound
    return found


def _conversation(name: str) -> Conversation:
    found = Conversation.objects.filter(_called(name)).first()
    if found is None:
        raise ConversationNotFound
    return found


def _owner(conversation: Conversation) -> UUID:
    """Whose name is used; a direct conversation has no owner, and its operations say so."""
    ranked = Member.objects.filter(conversation=conversation).order_by("joined_at", "id")
    owner = ranked.filter(role=Member.Role.OWNER).first() or ranked.first()
    if owner is None:
        raise ConversationNotFound
    return owner.user_id


def _shown(conversation: Conversation) -> payloads.BackendConversation:
    return payloads.BackendConversation(
        id=conversation.id,
        external_id=conversation.external_id,
        kind=conversation.kind,
        title=conversation.title,
        data=conversation.data,
        channel=conversation.channel,
        member_count=conversation.member_count,
        created_at=conversation.created_at,
    )
