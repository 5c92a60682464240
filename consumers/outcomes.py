"""What a command comes to when it does not succeed: an error in its reply, or the end of its connection."""

from __future__ import annotations

import logging

import psycopg
from django.db import DatabaseError, InterfaceError

from models.errors import Unavailable

from .extensions import Close, Refuse
from .protocol.codec import Unsuitable
from .protocol.codes import Disconnect, ErrorCode
from .protocol.messages import Disconnected, Error

log = logging.getLogger(__name__)


class Refused(Exception):
    """Something is not done: an error of the protocol, or a close of the whole connection."""

    def __init__(self, code: ErrorCode | Disconnect) -> None:
        super().__init__(code.reason)
        self.code = code


def outcome(error: Exception, what: str) -> Error | Disconnected:
    """What a client is told of an exception; ``what`` failed, if it was none of its doing."""
    match error:
        case Refused(code=Disconnect() as code):
            return Disconnected(code.value, code.reason)
        case Refused(code=ErrorCode() as code):
            return Error(code.value, code.reason, code.is_temporary)
        case Refuse():
            return Error(error.code, error.message, error.temporary)
        case Close():
            return Disconnected(error.code, error.reason)
        case Unsuitable():
            code = Disconnect.INAPPROPRIATE_PROTOCOL
            return Disconnected(code.value, code.reason)
        case _:
            log_failure(error, what)
            return Error(ErrorCode.INTERNAL.value, ErrorCode.INTERNAL.reason, True)


def log_failure(error: Exception, what: str) -> None:
    """An outage is one line; anything else is a bug, with its traceback."""
    if isinstance(error, Unavailable) or is_outage(error):
        log.warning("%s: %s", what, error)
    else:
        log.error("%s", what, exc_info=error)


def is_outage(error: BaseException) -> bool:
    """Whether the database is away, or took too long."""
    return isinstance(error, DatabaseError | InterfaceError | psycopg.OperationalError | TimeoutError)
