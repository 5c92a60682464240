"""
The one way from async edges into synchronous domain code: a bounded pool of threads.

Every call gives its database connection back to Django's pool when it ends, so that threads hold none while idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, partial
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections, connection

from .errors import TooBusy

Args = ParamSpec("Args")
Value = TypeVar("Value")

# Calls that may wait per thread. At a few milliseconds each that is well below the time-out of any client; more would
# only make everyone late.
_WAITING_PER_THREAD = 250


async def run(function: Callable[Args, Value], *args: Args.args, **kwargs: Args.kwargs) -> Value:
    """
    Call a synchronous function in a thread of the pool.

    Raises:
        TooBusy: the queue before the threads is full.
    """
    return await _pool().call(partial(function, *args, **kwargs))


class _Pool:
    """Threads with a bounded queue before them."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="domain")
        self._bound = threads * (1 + _WAITING_PER_THREAD)
        self._lock = Lock()
        self._open = 0

    async def call(self, function: Callable[[], Value]) -> Value:
        with self._lock:
            if self._open >= self._bound:
                raise TooBusy
            self._open += 1
        future = self._executor.submit(copy_context().run, _connected, function)
        # By the future and not by whoever awaits: one who gives up leaves a thread that is busy nevertheless.
        future.add_done_callback(self._close)
        return await asyncio.wrap_future(future)

    def _close(self, future: Future[Any]) -> None:
        with self._lock:
            self._open -= 1


@cache
def _pool() -> _Pool:
    return _Pool(settings.ROOST.database_threads)


def _connected(function: Callable[[], Value]) -> Value:
    close_old_connections()
    try:
        return function()
    except (InterfaceError, OperationalError):
        _replace_broken_connections()
        raise
    finally:
        close_old_connections()


_replacing = Lock()


def _replace_broken_connections() -> None:
    """What broke one connection has mostly broken those that wait in the pool too: look now, not when they are used."""
    database: Any = connection
    used = database.connection
    if (used is None or used.closed) and database.pool and _replacing.acquire(blocking=False):
        try:
            database.pool.check()
        finally:
            _replacing.release()
