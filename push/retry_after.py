"""``Retry-After`` (RFC 9110, section 10.2.3): a number of seconds, or a date. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Longer than any push lives; what a provider asks for beyond it is nonsense.
MAX_SECONDS = 28 * 86_400.0


def seconds_of(headers: Mapping[str, str]) -> float | None:
    """How many seconds from now a provider wants to be left alone; None if it does not say."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), MAX_SECONDS)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return min(max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds()), MAX_SECONDS)
