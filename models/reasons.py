"""
Why a push was not sent, or not yet: every code of ours with its sentence. Values only.

``docs/push.md`` has them in the same words. What a provider said itself has a code of the provider's.
"""

from __future__ import annotations

from .deliveries import State

REASONS: dict[str, str] = {
    # Nothing was planned for this device, or not yet.
    "own_message": "You wrote it yourself.",
    "not_planned_yet": "A worker has not looked at the message yet.",
    "scheduled": "It is due at the time named, unless the device or its user has the message by then.",
    "registered_later": "The device was registered, or registered anew, after the message had been written.",
    "no_record": "Nothing is kept about it: it was long ago, or nothing had to be done.",
    # What speaks against any push to this device.
    "expired": "It could not be sent before its time was over.",
    "device_gone": "The device was removed, or belongs to somebody else now.",
    "logged_out": "Nobody is logged in on the device.",
    "no_push_target": "The device has not said where its pushes go, or the provider does not know it any more.",
    "stale_device": "The device has not been used for a long time.",
    # What the person wants and may.
    "not_a_member": "Not a member when the message was written, or not any more; or the account is closed.",
    "notifications_off": "Notifications of this conversation are switched off.",
    "sender_blocked": "The sender is blocked.",
    "mentions_only": "Only mentions are wanted in this conversation, and this message has none.",
    "muted": "The conversation is muted.",
    "quiet_hours": "It is quiet time: a message waits for its end, a call does not.",
    # What has happened to the message.
    "message_deleted": "The message was deleted.",
    "system_message": "What happens to a group is shown in it, and wakes nobody.",
    "acknowledged": "The device had the message already.",
    "read": "The message was read, here or on another device.",
    "nothing_new": "A push before had told of the message already.",
    "nothing_to_clear": "Nothing was left on the screen.",
    "no_clears_on_the_web": "A browser can be told of nothing silently.",
    # What lies with this deployment.
    "provider_not_configured": "The device names a provider that this deployment does not have.",
    "too_many_pushes": "The device got sixty pushes within a minute: the next one waits.",
    "too_many_attempts": "It was tried so often that nobody misses it any more.",
    "not_renderable": "No push could be made of it; the worker's log says why.",
    "not_encodable": "The push could not be put into the provider's form.",
    "bad_target": "The push target is none of this provider's.",
    "bad_subscription": "The push target is no Web Push subscription.",
    "address_not_public": "The subscription's address is not one of the public network.",
    "400_INVALID_TOKEN": "The provider refuses the push target, and did so again when it was asked about nothing else.",
    "too_big": "It was too big for the provider, even with ids only.",
    # What lies between us and the provider.
    "no_answer": "The provider did not answer in time.",
    "service_paused": "The push service of the subscription refuses, or is away: it is asked again later.",
    "timeout": "The provider did not answer in time.",
    "not_connected": "The provider could not be reached.",
    "connection_failed": "The connection to the provider broke before it had answered.",
    "provider_failed": "The provider's code in the worker failed; the worker's log says how.",
}

SENT = "The provider has taken it."
WAITING = "It is waiting."
# Of a code that is the provider's own; docs/push.md has a table for each provider.
_FOREIGN = {
    State.PENDING: "The provider could not take it yet.",
    State.DROPPED: "The provider does not know the device's push target any more.",
    State.DEAD: "The provider will never take it.",
}


def explain(reason: str, state: State) -> str:
    """The sentence for a code, whoever made it."""
    if state is State.SENT:
        return SENT
    if not reason:
        return WAITING
    return REASONS.get(reason, _FOREIGN[state])
