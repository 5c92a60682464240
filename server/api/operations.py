"""
The HTTP addresses of all methods: one line each. Input, operation and errors are those of ``consumers.rpc``.

Path parts and query parameters are fields of the method's input, and so is what the body holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from consumers import rpc
from models import payloads


@dataclass(frozen=True, slots=True)
class Operation:
    """One address. ``returns`` is the payload's type, None where there is nothing to say."""

    tag: str
    verb: str
    path: str
    method: str
    summary: str
    returns: Any = None
    status: int = 200

    @property
    def takes_body(self) -> bool:
        return self.verb in ("POST", "PATCH", "PUT")


def _tagged(tag: str, *lines: tuple[Any, ...]) -> list[Operation]:
    return [Operation(tag, *line) for line in lines]


_C = "/conversations/{conversation}"

OPERATIONS: list[Operation] = [
    *_tagged(
        "Messages",
        ("POST", f"{_C}/messages", "message.send", "Send a message", rpc.Sent, 201),
        ("GET", f"{_C}/messages", "message.history", "Read messages next to a seq", payloads.MessagePage),
        ("GET", "/messages/{id}", "message.get", "Read one message", payloads.MessagePayload),
        ("PATCH", "/messages/{id}", "message.edit", "Change what a message says", payloads.MessagePayload),
        ("DELETE", "/messages/{id}", "message.delete", "Delete a message for everyone", payloads.MessagePayload),
        ("GET", "/messages/{id}/push", "message.push", "Tell why a push did not arrive", payloads.MessagePushes),
    ),
    *_tagged(
        "Conversations",
        ("GET", "/conversations", "conversation.list", "List conversations", payloads.ConversationPage),
        (
            "POST",
            "/conversations/direct",
            "conversation.create_direct",
            "Get or make a direct conversation",
            payloads.ConversationPayload,
        ),
        (
            "POST",
            "/conversations/group",
            "conversation.create_group",
            "Make a group",
            payloads.ConversationPayload,
            201,
        ),
        ("GET", _C, "conversation.get", "Show a conversation", payloads.ConversationPayload),
        ("PUT", f"{_C}/title", "conversation.rename", "Rename a conversation", payloads.ConversationPayload),
        ("PUT", f"{_C}/data", "conversation.set_data", "Replace the app's data", payloads.ConversationPayload),
        (
            "PUT",
            f"{_C}/push_content",
            "conversation.set_push_content",
            "Say how much pushes may tell",
            payloads.ConversationPayload,
        ),
        ("DELETE", _C, "conversation.delete", "Delete a group or feed for everyone"),
        ("POST", f"{_C}/leave", "conversation.leave", "Leave a group"),
        ("POST", f"{_C}/hide", "conversation.hide", "Hide a direct conversation"),
        ("POST", f"{_C}/mute", "conversation.mute", "Be told less", payloads.ConversationPayload),
        ("POST", f"{_C}/read", "conversation.read", "Everything up to a seq is read"),
        ("POST", f"{_C}/delivered", "conversation.delivered", "Everything up to a seq has arrived"),
        ("POST", f"{_C}/typing", "conversation.typing", "Tell that one is typing"),
        ("POST", f"{_C}/calls", "call.ring", "Ring the others"),
    ),
    *_tagged(
        "Members",
        ("GET", f"{_C}/members", "conversation.members", "List members", payloads.MemberPage),
        ("PUT", f"{_C}/members/{{user}}", "conversation.add_member", "Add a member", payloads.MemberPayload),
        ("DELETE", f"{_C}/members/{{user}}", "conversation.remove_member", "Remove a member"),
        ("PATCH", f"{_C}/members/{{user}}", "conversation.change_role", "Change a role", payloads.MemberPayload),
    ),
    *_tagged(
        "Feeds",
        ("GET", "/feeds", "feed.list", "List feeds", payloads.FeedPage),
        ("POST", "/feeds", "feed.create", "Make a feed", payloads.ConversationPayload, 201),
        ("POST", "/feeds/{conversation}/follow", "feed.follow", "Follow a feed"),
        ("POST", "/feeds/{conversation}/unfollow", "feed.unfollow", "Follow a feed no longer"),
    ),
    *_tagged(
        "People",
        ("GET", "/me", "user.me", "Show oneself", payloads.MePayload),
        ("PATCH", "/me", "user.update", "Change one's name, data or what one is told", payloads.MePayload),
        ("DELETE", "/me", "user.delete_account", "Delete one's account"),
        ("GET", "/users", "user.search", "Find people by name", payloads.UserPage),
        ("GET", "/users/{id}", "user.get", "Show a person", payloads.UserPayload),
        ("GET", "/blocks", "user.blocks", "List whom one has blocked", payloads.UserPage),
        ("PUT", "/blocks/{user}", "user.block", "Block a person"),
        ("DELETE", "/blocks/{user}", "user.unblock", "Take a block back"),
    ),
    *_tagged(
        "Devices and sessions",
        ("GET", "/devices", "device.list", "List one's devices", payloads.DevicePage),
        ("PUT", "/devices/current", "device.register", "Register this device", payloads.DevicePayload),
        ("DELETE", "/devices/{id}", "device.remove", "Log a device out and forget it"),
        ("POST", "/devices/{id}/push-test", "device.push_test", "Send a device a push", payloads.PushPayload, 202),
        ("GET", "/sessions", "session.list", "List one's sessions", payloads.SessionPage),
        ("DELETE", "/sessions/{id}", "session.revoke", "End a session"),
    ),
    *_tagged(
        "Pushes",
        ("GET", "/push/{push_id}", "push.get", "Show what became of a push", payloads.PushPayload),
        ("POST", "/push/{push_id}/receipts", "push.receipt", "Tell that a push has arrived"),
    ),
    *_tagged("Sync", ("GET", "/sync", "sync", "Read everything that changed", payloads.SyncPage)),
]
