"""The way from the event loop into synchronous code."""

import asyncio
import threading
from contextvars import ContextVar

import pytest
from django.db import connection

from models import threads

request_id: ContextVar[str] = ContextVar("request_id")


@pytest.fixture
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = threads._Pool(threads=1)
    pool._bound = 2
    monkeypatch.setattr(threads, "_pool", lambda: pool)


async def test_runs_in_another_thread_and_returns_the_value() -> None:
    here = threading.get_ident()

    there, total = await threads.run(lambda a, b: (threading.get_ident(), a + b), 1, b=2)

    assert there != here
    assert total == 3


async def test_raises_what_the_function_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)


async def test_context_goes_along() -> None:
    request_id.set("seven")

    assert await threads.run(request_id.get) == "seven"


@pytest.mark.usefixtures("small_pool")
async def test_a_full_queue_refuses() -> None:
    release = threading.Event()
    waiting = [asyncio.create_task(threads.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(threads.TooBusy):
        await threads.run(int)

    release.set()
    await asyncio.gather(*waiting)
    assert await threads.run(int) == 0


@pytest.mark.usefixtures("small_pool")
async def test_one_who_gives_up_makes_no_room_while_the_thread_is_busy() -> None:
    release, has_begun = threading.Event(), threading.Event()

    def work() -> None:
        has_begun.set()
        release.wait()

    waiting = [asyncio.create_task(threads.run(work)) for _ in range(2)]
    while not has_begun.is_set():
        await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)

    # The call that ran still runs; the one behind it was taken back.
    next_in_line = asyncio.create_task(threads.run(int))
    await asyncio.sleep(0)
    with pytest.raises(threads.TooBusy):
        await threads.run(int)

    release.set()
    assert await next_in_line == 0


@pytest.mark.django_db(transaction=True)
async def test_no_thread_keeps_a_connection() -> None:
    def ask() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    await threads.run(ask)

    assert await threads.run(lambda: connection.connection) is None
