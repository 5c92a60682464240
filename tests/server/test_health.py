"""Health checks: each part by name, and open to probes that know only an address."""

from __future__ import annotations

import json
from collections import Counter
from threading import Event

import pytest
from django.db import connection
from django.test import AsyncClient, Client
from pytest_django.fixtures import Settings

from server import health


@pytest.mark.django_db(transaction=True)
async def test_ready_names_each_part(async_client: AsyncClient) -> None:
    answer = await async_client.get("/health/ready")

    assert answer.status_code == 200
    assert json.loads(answer.content) == {
        "status": "ok",
        "checks": {"database": "ok", "migrations": "ok", "redis": "ok"},
    }


@pytest.mark.django_db(transaction=True)
async def test_without_redis_it_is_degraded_and_ready(async_client: AsyncClient, settings: Settings) -> None:
    settings.ROOST = settings.ROOST.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})

    answer = await async_client.get("/health/ready")

    assert answer.status_code == 200
    assert json.loads(answer.content)["status"] == "degraded"
    assert json.loads(answer.content)["checks"]["redis"] == "failed"


async def test_without_its_database_it_is_not_ready(async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> bool:
        raise ConnectionError("gone")

    monkeypatch.setattr(health, "_can_select", gone)

    answer = await async_client.get("/health/ready")

    assert answer.status_code == 503
    assert json.loads(answer.content)["checks"]["database"] == "failed"


@pytest.mark.django_db
def test_a_missing_migration_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_is_migrated", False)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'messaging'")

    assert health._has_all_migrations() is False


async def test_a_database_that_hangs_takes_one_thread_however_often_it_is_asked(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, release = Counter[str](), Event()

    def hang() -> bool:
        entered["database"] += 1
        return release.wait(30)

    monkeypatch.setattr(health, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(health, "_can_select", hang)

    try:
        answers = [await async_client.get("/health/ready") for _ in range(3)]
    finally:
        release.set()

    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert entered == {"database": 1}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
@pytest.mark.django_db(transaction=True)
def test_probes_need_no_allowed_host_and_no_https(client: Client, settings: Settings, path: str) -> None:
    settings.ALLOWED_HOSTS = ["chat.example.com"]
    settings.SECURE_SSL_REDIRECT = True

    assert client.get(path, headers={"host": "10.0.0.7:8000"}).status_code == 200
    assert client.get("/", headers={"host": "10.0.0.7:8000"}).status_code == 400
