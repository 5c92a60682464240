"""Names of channels, and the id of the stream behind each."""

from uuid import UUID, uuid5

CHAT = "chat:"
FEED = "feed:"
PERSONAL = "#"

# The namespace of stream ids for channels that are named by the operator's apps.
_OTHER = UUID("5f0f4f3e-3a5c-4e0c-9a70-2c1c7b0d9a11")


def chat(conversation_id: UUID) -> str:
    """The channel of a direct or group conversation."""
    return f"{CHAT}{conversation_id}"


def feed(conversation_id: UUID) -> str:
    """The channel of a feed."""
    return f"{FEED}{conversation_id}"


def personal(user_id: UUID) -> str:
    """The channel that reaches all devices of one user."""
    return f"{PERSONAL}{user_id}"


def of_conversation(kind: str, conversation_id: UUID) -> str:
    """The channel of a conversation of this kind (``direct``, ``group``, ``feed``)."""
    return feed(conversation_id) if kind == "feed" else chat(conversation_id)


def conversation_id(channel: str) -> UUID | None:
    """The conversation that a ``chat:`` or ``feed:`` channel carries, or None if the name is no such channel."""
    prefix, _, rest = channel.partition(":")
    if prefix not in ("chat", "feed"):
        return None
    return _canonical(rest)


def personal_user_id(channel: str) -> UUID | None:
    """The user whose personal channel this is, or None."""
    return _canonical(channel[1:]) if channel.startswith(PERSONAL) else None


def stream_id(channel: str) -> UUID:
    """The id of a channel's stream: the conversation's, the user's, or one made from the name."""
    return conversation_id(channel) or personal_user_id(channel) or uuid5(_OTHER, channel)


def stream_kind(channel: str) -> int:
    """The first key of the lock order: conversations before persons before everything else."""
    if conversation_id(channel):
        return 0
    return 1 if personal_user_id(channel) else 2


def _canonical(text: str) -> UUID | None:
    # Only the canonical spelling: two names for one stream would be two channels in the hub.
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text else None
