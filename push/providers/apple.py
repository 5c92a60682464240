"""
What Apple's devices are told, whoever carries it. Pure.

https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification
"""

from __future__ import annotations

from models.deliveries import Kind

from ..payload import VOIP, Push

# They stand in the alert, and need not be told twice within 4,096 bytes.
_WORDS_OF_THE_ALERT = ("title", "body", "badge")


def push_type(push: Push) -> str:
    """Who acts on it: the system shows an alert, the app works in the background, or rings."""
    if push.target_kind == VOIP:
        return "voip"
    return "background" if push.kind is Kind.CLEAR else "alert"


def priority(push: Push) -> str:
    """10 is at once, 5 heeds the battery: the only one that background pushes may have, and enough for a revision."""
    return "5" if push.kind in (Kind.CLEAR, Kind.REVISION) else "10"


def interruption_level(push: Push) -> str | None:
    """How much it disturbs: a revision lights no screen, a call breaks through a focus that allows it."""
    return {Kind.REVISION: "passive", Kind.CALL: "time-sensitive"}.get(push.kind)


def data_beside(push: Push) -> dict[str, str]:
    """The data without what the alert says."""
    words = _WORDS_OF_THE_ALERT if push_type(push) == "alert" else ()
    return {key: value for key, value in push.data.items() if key not in words}
