"""One example of each payload, for the OpenAPI document: made of the payloads themselves, so that it cannot lie."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from consumers import rpc
from models import payloads, reasons

from .tokens import TokenPair

AT = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
ALICE, BOB = UUID("01998a3d-0000-7000-8000-000000000001"), UUID("01998a3d-0000-7000-8000-000000000002")
CONVERSATION = UUID("01998a3e-52b4-7c1e-9d5c-0d3e8f0a1b2c")
MESSAGE = UUID("01998a3e-9f00-7aa1-8b1f-2f6d1c0e4a55")
PUSH = UUID("01998a3f-1000-7000-8000-0000000000a1")
DEVICE, SESSION = UUID("01998a3f-0000-7000-8000-00000000000d"), UUID("01998a3f-0000-7000-8000-00000000000e")

_bob = payloads.UserPayload(id=BOB, name="Bob", data={"color": "teal"})
_message = payloads.MessagePayload(
    id=MESSAGE,
    conversation=CONVERSATION,
    seq=42,
    kind="text",
    sender=BOB,
    client_id="b2f3c1d0-7d8e-4f10-9a55-3a0c1f5f7a11",
    text="Hello",
    data=None,
    mentions=[],
    reply_to=None,
    created_at=AT,
)
_conversation = payloads.ConversationPayload(
    id=CONVERSATION,
    kind="direct",
    title="",
    data={},
    created_at=AT,
    member_count=2,
    channel=f"chat:{CONVERSATION}",
    top_seq=42,
    role="member",
    joined_seq=0,
    read_seq=41,
    delivered_seq=42,
    unread=1,
    muted_until=None,
    notification_level="all",
    is_hidden=False,
    last_message=_message,
    other=_bob,
)
_member = payloads.MemberPayload(user=_bob, role="member", joined_at=AT, read_seq=42, delivered_seq=42)
_device = payloads.DevicePayload(
    id=DEVICE,
    platform="ios",
    name="Alice's phone",
    push_provider="fcm",
    target_kind="token",
    has_target=True,
    has_voip_target=False,
    push_content="encrypted",
    has_push_key=True,
    locale="en-GB",
    app_version="1.4.0",
    created_at=AT,
    last_seen_at=AT,
)
_push = payloads.PushPayload(
    push_id=PUSH,
    device=DEVICE,
    conversations=[CONVERSATION],
    kind="alert",
    state="sent",
    reason="",
    explanation=reasons.SENT,
    provider="fcm",
    answer="",
    tries=[payloads.PushTry(at=AT, code="sent", ms=112)],
    not_before=None,
    finished_at=AT,
    received_at=AT,
    displayed_at=AT,
    opened_at=None,
)

_OF_TYPE: dict[type, msgspec.Struct] = {
    type(example): example
    for example in (
        _bob,
        _message,
        _conversation,
        _member,
        _device,
        _push,
        payloads.MessagePushes(
            message=MESSAGE,
            devices=[
                payloads.DevicePushes(
                    device=DEVICE,
                    name="Alice's phone",
                    platform="ios",
                    decision="sent",
                    reason="",
                    explanation=reasons.SENT,
                    push_id=PUSH,
                    not_before=None,
                    pushes=[_push],
                )
            ],
        ),
        rpc.Sent(id=MESSAGE, seq=42, created_at=AT, duplicate=False),
        payloads.MessagePage(messages=[_message], users={BOB: _bob}, has_more=True),
        payloads.ConversationPage(conversations=[_conversation], next_cursor=None, total_unread=1),
        payloads.MemberPage(members=[_member], next_cursor=None),
        payloads.MePayload(
            id=ALICE,
            name="Alice",
            email="alice@example.com",
            external_id=None,
            data={},
            created_at=AT,
            quiet_hours=payloads.QuietHours(start="22:00", until="07:00", time_zone="Europe/Berlin"),
        ),
        payloads.UserPage(users=[_bob]),
        payloads.FeedPage(
            feeds=[
                payloads.FeedPayload(
                    id=CONVERSATION,
                    title="News",
                    data={},
                    channel=f"feed:{CONVERSATION}",
                    followers=1200,
                    is_followed=True,
                    created_at=AT,
                )
            ],
            next_cursor=None,
        ),
        payloads.BackendConversation(
            id=CONVERSATION,
            external_id="order-1017",
            kind="group",
            title="Order 1017",
            data={},
            channel=f"chat:{CONVERSATION}",
            member_count=2,
            created_at=AT,
        ),
        TokenPair(access_token="eyJ…", refresh_token="rt_…", expires_in=900),  # noqa: S106 - an example
        payloads.DevicePage(devices=[_device]),
        payloads.SessionPage(
            sessions=[
                payloads.SessionPayload(id=SESSION, device=_device, created_at=AT, expires_at=AT, is_current=True)
            ]
        ),
        payloads.SyncPage(
            events=[
                payloads.SyncedEvent(
                    channel=f"chat:{CONVERSATION}",
                    offset=42,
                    data=msgspec.Raw(payloads.to_json(payloads.MessageSent(message=_message))),
                )
            ],
            conversations=[_conversation],
            cursor="bDSg…",
            has_more=False,
        ),
    )
}

# What the fields of bodies and queries look like.
_FIELDS: dict[str, Any] = {
    "call_id": "6f1c7b0d",
    "event": "displayed",
    "client_id": "b2f3c1d0-7d8e-4f10-9a55-3a0c1f5f7a11",
    "text": "Hello",
    "title": "Tea",
    "members": [str(BOB)],
    "kind": "group",
    "sender": "customer-42",
    "install_id": "6f1c…",
    "user": str(BOB),
    "data": {"color": "teal"},
    "role": "admin",
    "until": "2026-11-24T09:00:00Z",
    "level": "mentions",
    "seq": 42,
    "is_typing": True,
    "name": "Alice",
    "quiet_hours": {"from": "22:00", "until": "07:00", "time_zone": "Europe/Berlin"},
    "q": "bo",
    "wants_summaries": True,
    "platform": "ios",
    "push_provider": "fcm",
    "target_kind": "token",
    "target": "cX0…",
    "voip_target": "9f86d081884c7d659a2feaa0c55ad015…",
    "locale": "en-GB",
    "app_version": "1.4.0",
    "push_content": "encrypted",
    "push_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
}


def of_type(payload: type) -> Any:
    """An example of a payload, as JSON values."""
    return msgspec.json.decode(payloads.to_json(_OF_TYPE[payload]))


def of_fields(names: list[str]) -> dict[str, Any]:
    """An example of a body with these fields; what goes without saying is left out."""
    return {name: _FIELDS[name] for name in names if name in _FIELDS}
