"""Ids that are public: UUID version 7, so that a new row lands at the end of its index."""

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """Return a fresh UUIDv7."""
    return uuid_utils.compat.uuid7()
