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

from models import threads

CHECK_SECONDS = 3.0


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
    (database, migrations), redis_ok = await asyncio.gather(_database(), _redis())
    checks = {"database": database, "migrations": migrations, "redis": redis_ok}
    is_ready = database and migrations
    status = "unready" if not is_ready else "ok" if redis_ok else "degraded"
    return JsonResponse(
        {"status": status, "checks": {name: "ok" if ok else "failed" for name, ok in checks.items()}},
        status=200 if is_ready else 503,
    )


CHECKS: dict[str, Callable[[HttpRequest], Awaitable[JsonResponse]]] = {
    "/health/live": live,
    "/health/ready": ready,
}


async def _database() -> tuple[bool, bool]:
    try:
        return True, await asyncio.wait_for(threads.run(_is_migrated), CHECK_SECONDS)
    except Exception:
        # Whatever it is, the answer is the same; the logs of the parts have the reason.
        return False, False


_migrated = False


def _is_migrated() -> bool:
    # Migrations are only ever added by a new deployment, which starts new processes.
    global _migrated
    if not _migrated:
        executor = MigrationExecutor(connection)
        _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
        return _migrated
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return True


async def _redis() -> bool:
    client = redis.asyncio.from_url(
        settings.ROOST.redis_url, socket_timeout=CHECK_SECONDS, socket_connect_timeout=CHECK_SECONDS
    )
    try:
        return bool(await asyncio.wait_for(client.ping(), CHECK_SECONDS))
    except Exception:
        return False
    finally:
        await client.aclose()
