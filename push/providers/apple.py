"""
What Apple's devices are told, whoever carries it. Pure.

https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification
"""

from __future__ import annotations

from models.deliveries import Kind

from ..payload import Push

# They stand in the alert, and need not be told twice within 4,096 bytes.
_WORDS_OF_THE_ALERT = ("title", "body", "badge")


def is_alert(push: Push) -> bool:
    """Whether the system shows it; a clear is for the app, in the background."""
    return push.kind is not Kind.CLEAR


def priority(push: Push) -> str:
    """10 is at once, 5 heeds the battery: the only one that background pushes may have, and enough for a revision."""
    return "5" if push.kind in (Kind.CLEAR, Kind.REVISION) else "10"


def interruption_level(push: Push) -> str | None:
    """How much it disturbs: a revision lights no screen, a call breaks through a focus that allows it."""
    return {Kind.REVISION: "passive", Kind.CALL: "time-sensitive"}.get(push.kind)


def data_beside(push: Push) -> dict[str, str]:
    """The data without what the alert says."""
    words = _WORDS_OF_THE_ALERT if is_alert(push) else ()
    return {key: value for key, value in push.data.items() if key not in words}
