"""
What callers hand to the writer and what they get back.

``prepare`` refuses what can be known to be wrong without the database, so that a batch holds only what it will take.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec

from . import channels, limits
from .errors import BadClientId, BadText, DataTooLarge, EmptyMessage, InvalidInput, TextTooLong, TooManyMentions
from .ids import new_id

NO_ID = UUID(int=0)
MAX_CHANNEL_CHARACTERS = 255
# What one publication of the operator's own channels may hold; a websocket message of a client is no larger.
MAX_PUBLICATION_BYTES = 64 * 1024
# What a queued draft holds beside its text: objects, future, queue slot.
_OVERHEAD_BYTES = 600


class MessageDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A message that somebody wants to send. ``data`` is any JSON value, decoded or ``msgspec.Raw``."""

    sender: UUID
    conversation: UUID
    client_id: str
    text: str | None = None
    data: Any = None
    mentions: tuple[UUID, ...] = ()
    reply_to: UUID | None = None
    kind: str = "text"
    sender_device: UUID | None = None


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a draft: its own message, or the one that was stored first under the same ``client_id``."""

    id: UUID
    conversation: UUID
    seq: int
    created_at: datetime
    duplicate: bool = False
    message_json: bytes | None = None


class PublicationDraft(msgspec.Struct, frozen=True, kw_only=True):
    """
    A publication for a channel of the operator's own; ``data`` is kept byte for byte.

    The same ``idempotency_key`` again, within the channel's last thousand publications, returns the first.
    """

    channel: str
    data: bytes
    kind: str = "publication"
    info: bytes | None = None
    tags: dict[str, str] | None = None
    delta: bool = False
    idempotency_key: str | None = None


class PreparedMessage(msgspec.Struct, frozen=True):
    """A draft that passed every check, in the form that the statement takes: no column is ever null."""

    id: UUID
    conversation: UUID
    sender: UUID
    client_id: str
    kind: str
    text: str
    data: str
    mentions: str
    reply_to: UUID
    size: int

    @property
    def stream(self) -> UUID:
        return self.conversation

    @property
    def key(self) -> tuple[object, ...]:
        """Two drafts with the same key are the same message."""
        return (self.conversation, self.sender, self.client_id)


class PreparedPublication(msgspec.Struct, frozen=True):
    """The same for a raw publication; ``id`` is made from the idempotency key if there is one."""

    id: UUID
    stream: UUID
    draft: PublicationDraft
    tags: str
    size: int

    @property
    def key(self) -> tuple[object, ...]:
        return (self.stream, self.id)


_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
# An escaped NUL, but not a backslash that happens to stand before the letters u0000.
_find_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search


def prepare(draft: MessageDraft) -> PreparedMessage:
    """
    Check a message and give it its id.

    Raises:
        EmptyMessage, TextTooLong, BadText, DataTooLarge, TooManyMentions, BadClientId, InvalidInput
    """
    text, data = check_content(draft.text, draft.data, draft.mentions)
    if draft.kind not in ("text", "custom"):
        raise InvalidInput(f"There is no kind of message {draft.kind!r}.")
    if not 1 <= len(draft.client_id) <= limits.MAX_CLIENT_ID_CHARACTERS or not is_storable(draft.client_id):
        raise BadClientId
    return PreparedMessage(
        new_id(),
        draft.conversation,
        draft.sender,
        draft.client_id,
        draft.kind,
        text,
        data,
        mention_text(draft.mentions),
        draft.reply_to or NO_ID,
        _OVERHEAD_BYTES + 4 * len(text) + len(data) + 36 * len(draft.mentions),
    )


def prepare_publication(draft: PublicationDraft) -> PreparedPublication:
    """
    Check a raw publication and find its stream.

    Raises:
        DataTooLarge, BadText, InvalidInput
    """
    if not 1 <= len(draft.channel) <= MAX_CHANNEL_CHARACTERS or not is_storable(draft.channel):
        raise InvalidInput("A channel's name has 1 to 255 characters.")
    if draft.channel.startswith((channels.CHAT, channels.FEED)):
        raise InvalidInput("What a conversation carries is written by its operations only.")
    if len(draft.data) + len(draft.info or b"") > MAX_PUBLICATION_BYTES:
        raise DataTooLarge(limit=MAX_PUBLICATION_BYTES)
    tags = json_text(draft.tags)
    stream = channels.stream_id(draft.channel)
    key = draft.idempotency_key
    return PreparedPublication(
        uuid5(stream, key) if key else new_id(),
        stream,
        draft,
        tags,
        _OVERHEAD_BYTES + len(draft.data) + len(draft.info or b"") + len(tags),
    )


def check_content(text: str | None, data: Any, mentions: Sequence[UUID]) -> tuple[str, str]:
    """
    Refuse what a message cannot hold; return its text and its data as JSON, empty where there is none.

    Raises:
        EmptyMessage, TextTooLong, BadText, DataTooLarge, TooManyMentions, InvalidInput
    """
    text, data = text or "", json_text(data)
    if not text and not data:
        raise EmptyMessage
    if len(text) > limits.MAX_TEXT_CHARACTERS:
        raise TextTooLong(limit=limits.MAX_TEXT_CHARACTERS)
    if len(mentions) > limits.MAX_MENTIONS:
        raise TooManyMentions(limit=limits.MAX_MENTIONS)
    if not is_storable(text):
        raise BadText
    return text, data


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold this text: no NUL, no half of a surrogate pair."""
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def json_text(data: Any) -> str:
    """
    Write an app's JSON in one line, or nothing for null.

    Raises:
        DataTooLarge: beyond ``limits.MAX_DATA_BYTES``.
        BadText: it holds NUL characters, which PostgreSQL's JSON cannot.
        InvalidInput: it is not JSON.
    """
    if data is None or (isinstance(data, msgspec.Raw) and bytes(data) == b"null"):
        return ""
    try:
        # Raw bytes are decoded once, because they may hold line breaks, which end a message on the wire.
        encoded = _encode(_decode(data) if isinstance(data, msgspec.Raw) else data)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise InvalidInput("The data is not JSON.") from error
    if len(encoded) > limits.MAX_DATA_BYTES:
        raise DataTooLarge(limit=limits.MAX_DATA_BYTES)
    if _find_nul(encoded):
        raise BadText
    return "" if encoded == b"null" else encoded.decode()


def mention_text(mentions: tuple[UUID, ...]) -> str:
    """The people mentioned, each once, as PostgreSQL writes an array; empty if there is nobody."""
    return "{" + ",".join(map(str, dict.fromkeys(mentions))) + "}" if mentions else ""
