"""
``/health/live`` and ``/health/ready``: whether this process runs, and whether it can serve.

Answered by a middleware in front of all others: probes come by address and in the clear, so neither the allowed hosts
nor a redirection to https may stand in their way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.utils.decorators import sync_and_async_middleware

CHECK_SECONDS = 3.0

_running: dict[Callable[[], Awaitable[bool]], asyncio.Future[bool]] = {}
_is_migrated = False


@sync_and_async_middleware
def middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer health checks, pass on all else."""
    if not iscoroutinefunction(get_response):

        def answer(request: HttpRequest) -> HttpResponseBase:
            check = CHECKS.get(request.path)
            return async_to_sync(check)(request) if check else get_response(request)

        return answer

    async def answer_async(request: HttpRequest) -> HttpResponseBase:
        check = CHECKS.get(request.path)
        return await (check or get_response)(request)

    return answer_async


async def live(request: HttpRequest) -> JsonResponse:
    """The event loop turns."""
    return JsonResponse({"status": "ok"})


async def ready(request: HttpRequest) -> JsonResponse:
    """200 when requests can be served; without Redis the service is degraded, and ready."""
    database, migrations, redis_ = await asyncio.gather(_holds(_database), _holds(_migrations), _holds(_redis))
    checks = {"database": database, "migrations": migrations, "redis": redis_}
    is_ready = database and migrations
    status = "unready" if not is_ready else "ok" if redis_ else "degraded"
    return JsonResponse(
        {"status": status, "checks": {name: "ok" if ok else "failed" for name, ok in checks.items()}},
        status=200 if is_ready else 503,
    )


CHECKS: dict[str, Callable[[HttpRequest], Awaitable[JsonResponse]]] = {
    "/health/live": live,
    "/health/ready": ready,
}


async def _holds(check: Callable[[], Awaitable[bool]]) -> bool:
    """
    Answer in time, whatever hangs.

    A check that has not ended is waited for again instead of being started again: a database that hangs must not take
    one more thread with every question.
    """
    running = _running.get(check)
    if running is None or running.done() or running.get_loop() is not asyncio.get_running_loop():
        running = _running[check] = asyncio.ensure_future(check())
        running.add_done_callback(lambda future: future.cancelled() or future.exception())
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await asyncio.shield(running)
    except Exception:
        # Whatever it is, the answer is the same; those who need the part log the reason.
        return False


async def _database() -> bool:
    return await asyncio.to_thread(_can_select)


async def _migrations() -> bool:
    return await asyncio.to_thread(_has_all_migrations)


async def _redis() -> bool:
    client = redis.asyncio.from_url(
        settings.ROOST.redis_url, socket_timeout=CHECK_SECONDS, socket_connect_timeout=CHECK_SECONDS
    )
    try:
        return bool(await client.ping())
    finally:
        await client.aclose()


def _can_select() -> bool:
    # In a thread of its own: the pool of the domain may be busy without anything being wrong.
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return True
    finally:
        connection.close()


def _has_all_migrations() -> bool:
    # New migrations come with new code, which starts new processes: once they are there, they are there.
    global _is_migrated
    if not _is_migrated:
        try:
            executor = MigrationExecutor(connection)
            _is_migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
        finally:
            connection.close()
    return _is_migrated
