"""What a worker tells of itself: the right numbers, few enough of them, and nothing that is secret."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.deliveries import ClearResult, DueClear, State
from models.device import Device
from models.ids import new_id
from models.notification import Delivery, PushCursor
from models.queries.push_figures import Outbox, Queue
from push.breaker import Breaker
from push.metrics import MAX_WORDS, Metrics
from push.providers.base import Outcome, Verdict
from push.providers.memory import MemoryProvider
from push.worker import Worker
from server.embedded import free_port
from server.worker_metrics import MetricsServer
from tests.factories import make_session
from tests.fcm import Answer, Fcm, refusal
from tests.push.scene import (
    acknowledge,
    make_conversation,
    make_person,
    make_phone,
    make_worker,
    nothing_is_pending,
    work,
    write,
)
from tests.push.workers import Workers


@pytest.fixture
def workers(fcm: Fcm, tmp_path: Path) -> Iterator[Workers]:
    with Workers(fcm, tmp_path) as workers:
        yield workers


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


class Scrape:
    """What a worker answers Prometheus."""

    def __init__(self, port: int) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            self.text = answer.read().decode()
        self._samples = [sample for family in text_string_to_metric_families(self.text) for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        found = [sample.value for sample in self._samples if sample.name == name and sample.labels == labels]
        return found[0] if found else None


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- in this process


@pytest.mark.django_db(transaction=True)
class TestOfAWorker:
    """Ann and Bea in a group; Bea has a phone."""

    @pytest.fixture(autouse=True)
    def _scene(self) -> None:
        self.ann, self.bea = make_person("Ann"), make_person("Bea")
        self.phone = make_phone(self.bea)
        self.group = make_conversation(self.ann, self.bea)
        self.provider = MemoryProvider()
        self.worker: Worker = make_worker(self.provider)

    def count(self, name: str, **labels: str) -> float | None:
        return value(self.worker.metrics, name, **labels)

    def test_a_push_that_arrives(self) -> None:
        write(self.group, self.ann)

        work(self.worker)

        assert self.count("roost_push_messages_total") == 1
        assert self.count("roost_push_planned_total") == 1
        assert self.count("roost_push_sent_total", provider="memory", kind="alert") == 1
        assert self.count("roost_push_tries_total", provider="memory", verdict="sent", code="sent") == 1
        for what in ("queue_age", "provider", "latency"):
            assert self.count(f"roost_push_{what}_seconds_count", provider="memory") == 1
        latency = self.count("roost_push_latency_seconds_sum", provider="memory")
        assert latency is not None
        assert 0 < latency < 5
        assert self.count("roost_push_in_flight", provider="memory") == 0

    @pytest.mark.parametrize("reason", ["acknowledged", "logged_out"])
    def test_what_is_dropped_is_counted_by_the_rule(self, reason: str) -> None:
        message = write(self.group, self.ann)
        if reason == "acknowledged":
            acknowledge(self.phone, message)
        else:
            log_out(self.phone)

        work(self.worker)

        assert self.count("roost_push_dropped_total", reason=reason) == 1
        assert self.count("roost_push_sent_total", provider="memory", kind="alert") is None

    def test_what_a_provider_cannot_do_now_is_counted_as_retried(self) -> None:
        self.provider.outcomes[self.phone.target] = [Outcome(Verdict.RETRY, "503_UNAVAILABLE", 0.0)]
        write(self.group, self.ann)

        work(self.worker)

        assert self.count("roost_push_retried_total", provider="memory", code="503_UNAVAILABLE") == 1
        assert self.count("roost_push_ambiguous_total", provider="memory") is None
        assert self.count("roost_push_sent_total", provider="memory", kind="alert") == 1
        # Of the second try it would tell how long the provider was away.
        assert self.count("roost_push_latency_seconds_count", provider="memory") == 1

    @pytest.mark.parametrize(("code", "count"), [("timeout", 1), ("connection_failed", 1), ("not_connected", None)])
    def test_what_may_have_arrived_is_ambiguous(self, code: str, count: float | None) -> None:
        self.provider.outcomes[self.phone.target] = [Outcome(Verdict.RETRY, code, 0.0)]
        write(self.group, self.ann)

        work(self.worker)

        assert self.count("roost_push_ambiguous_total", provider="memory") == count

    def test_a_target_that_is_gone_is_invalidated(self) -> None:
        self.provider.outcomes[self.phone.target] = [Outcome(Verdict.TARGET_GONE, "404_UNREGISTERED")]
        write(self.group, self.ann)

        work(self.worker)

        assert self.count("roost_push_invalidated_total", provider="memory") == 1

    def test_what_is_refused_for_good_is_dead(self) -> None:
        self.provider.outcomes[self.phone.target] = [Outcome(Verdict.REJECTED, "400_INVALID_ARGUMENT")]
        write(self.group, self.ann)

        work(self.worker)

        assert self.count("roost_push_dead_total", provider="memory", code="400_INVALID_ARGUMENT") == 1

    def test_what_waits_for_the_morning_is_postponed(self) -> None:
        self.bea.time_zone = "UTC"
        self.bea.quiet_from, self.bea.quiet_until = datetime.min.time(), datetime.max.time()
        self.bea.save()
        write(self.group, self.ann)

        work(self.worker, until=lambda: PushCursor.objects.filter(is_deferred=True).exists())

        assert self.count("roost_push_postponed_total", reason="quiet_hours") == 1


def log_out(phone: Device) -> None:
    session = make_session(phone.user).session
    session.device_id = phone.id
    session.revoked_at = datetime.now(UTC)
    session.save()


def test_a_breaker_shows_its_state() -> None:
    metrics, breaker = Metrics(), Breaker(concurrency=8)
    metrics.watch("fcm", breaker, lambda: 3)

    assert value(metrics, "roost_push_provider_paused", provider="fcm") == 0
    assert value(metrics, "roost_push_provider_slots", provider="fcm") == 8
    assert value(metrics, "roost_push_in_flight", provider="fcm") == 3
    breaker.refused()

    assert value(metrics, "roost_push_provider_paused", provider="fcm") == 1
    assert value(metrics, "roost_push_provider_slots", provider="fcm") == 0


def test_there_are_only_so_many_different_words() -> None:
    metrics = Metrics()

    for number in range(10 * MAX_WORDS):
        metrics.tried("fcm", Outcome(Verdict.REJECTED, f"400_ODD_{number}"), 0.1)
        metrics.dropped(f"reason_{number}")

    codes = {labels["code"] for labels in labels_of(metrics, "roost_push_tries_total")}
    reasons = {labels["reason"] for labels in labels_of(metrics, "roost_push_dropped_total")}
    assert "other" in codes & reasons
    assert len((codes | reasons) - {"other"}) == MAX_WORDS


@pytest.mark.parametrize("code", ["a b", "x" * 61, 'quo"te', "dYx:APA91b-token", "line\nbreak"])
def test_what_is_no_word_is_no_label(code: str) -> None:
    metrics = Metrics()

    metrics.tried("fcm", Outcome(Verdict.REJECTED, code), 0.1)

    assert [labels["code"] for labels in labels_of(metrics, "roost_push_tries_total")] == ["other"]


def labels_of(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [sample.labels for family in metrics.registry.collect() for sample in family.samples if sample.name == name]


async def test_while_the_database_is_away_no_old_figure_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    is_away = asyncio.Event()

    def look(providers: object) -> dict[str, Any]:
        raise ConnectionError

    monkeypatch.setattr("models.queries.push_figures.queues", look)
    monkeypatch.setattr(metrics, "forget_queues", is_away.set)
    server = MetricsServer(metrics, ["fcm"])
    server.start("127.0.0.1", free_port())
    try:
        async with asyncio.timeout(10):
            await is_away.wait()
    finally:
        await server.stop()


def test_forgotten_queues_are_left_out() -> None:
    metrics = Metrics()
    metrics.show_queues({"fcm": Queue(3, 2, 1.5)}, Outbox(4, 2.5))
    assert value(metrics, "roost_push_queue", provider="fcm", state="due") == 3
    assert value(metrics, "roost_push_outbox") == 4

    metrics.forget_queues()

    assert value(metrics, "roost_push_queue", provider="fcm", state="due") is None
    assert value(metrics, "roost_push_outbox") != value(metrics, "roost_push_outbox"), "no number"


# --- a process of its own


@pytest.mark.django_db(transaction=True)
def test_a_worker_answers_prometheus(fcm: Fcm, workers: Workers) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    android, _ = make_phone(bea), make_phone(bea, platform="ios")
    gone = make_phone(bea)
    group = make_conversation(ann, bea)
    fcm.delay_seconds = 0.05
    fcm.script(gone.target, refusal(404, "UNREGISTERED"))
    fcm.script(android.target, Answer(resets=True), refusal(400, "INVALID_ARGUMENT"))
    write(group, ann)
    port = free_port()

    workers.start(f"--metrics {port}")
    # The next try comes after ten seconds at the earliest: let it be due.
    workers.await_that(lambda: Delivery.objects.filter(device_id=android.id, state="pending").exists())
    PushCursor.objects.filter(device=android, leased_until=None).update(not_before=datetime.now(UTC))
    workers.await_that(nothing_is_pending)

    found = Scrape(port)
    assert found.value("roost_push_messages_total") == 1
    assert found.value("roost_push_planned_total") == 3
    assert found.value("roost_push_sent_total", provider="fcm", kind="alert") == 1
    assert found.value("roost_push_invalidated_total", provider="fcm") == 1
    assert found.value("roost_push_dead_total", provider="fcm", code="400_INVALID_ARGUMENT") == 1
    assert found.value("roost_push_ambiguous_total", provider="fcm") == 1
    gone = {"verdict": "target_gone", "code": "404_UNREGISTERED"}
    assert found.value("roost_push_tries_total", provider="fcm", **gone) == 1
    assert found.value("roost_push_provider_seconds_count", provider="fcm") == 4
    assert 0.2 <= (found.value("roost_push_provider_seconds_sum", provider="fcm") or 0) < 20
    assert found.value("roost_push_latency_seconds_count", provider="fcm") == 3
    assert found.value("roost_push_queue_age_seconds_count", provider="fcm") == 4
    assert found.value("roost_push_provider_paused", provider="fcm") == 0
    assert (found.value("process_resident_memory_bytes") or 0) > 1e6


@pytest.mark.django_db(transaction=True)
def test_receipts_are_shown_by_platform(fcm: Fcm, workers: Workers) -> None:
    phone = make_phone(make_person("Bea"), platform="ios")
    for received_after in (2, None):
        delivery = Delivery.objects.create(
            push_id=new_id(),
            device_id=phone.id,
            user_id=phone.user_id,
            conversation_id=new_id(),
            kind="alert",
            provider="fcm",
            state="sent",
        )
        if received_after:
            at = delivery.created_at + timedelta(seconds=received_after)
            Delivery.objects.filter(id=delivery.id).update(received_at=at)
    port = free_port()

    workers.start(ROOST_WORKER_METRICS_PORT=str(port))
    workers.await_that(
        lambda: is_listening(port) and Scrape(port).value("roost_push_last_day", platform="ios", what="sent") == 2
    )

    found, received = Scrape(port), {"platform": "ios", "what": "received"}
    assert found.value("roost_push_receipt_ratio", **received) == 0.5
    assert found.value("roost_push_receipt_seconds", **received) == pytest.approx(2)
    # Both were looked up before receipts were.
    assert found.value("roost_push_queue", provider="fcm", state="due") == 0
    assert found.value("roost_push_outbox") == 0


@pytest.mark.django_db(transaction=True)
def test_nobody_listens_unless_it_is_asked_for(fcm: Fcm, workers: Workers) -> None:
    worker = workers.start()
    workers.await_that(lambda: "worker.started" in worker.log)

    listening = [one for one in psutil.Process(worker.pid).net_connections() if one.status == psutil.CONN_LISTEN]

    assert listening == []


@pytest.mark.django_db(transaction=True)
def test_a_port_that_is_taken_is_said_in_one_line(fcm: Fcm, workers: Workers) -> None:
    worker = workers.start(f"--metrics {fcm.port}")

    workers.await_that(lambda: not worker.is_alive)

    assert f"127.0.0.1:{fcm.port}" in worker.log
    assert "Traceback" not in worker.log


# --- nothing secret


@pytest.mark.django_db(transaction=True)
def test_no_target_is_told_to_anybody(fcm: Fcm, workers: Workers, tmp_path: Path) -> None:
    ann, bea = make_person("Ann"), make_person("Bea")
    answers: list[list[Answer]] = [
        [],
        [refusal(404, "UNREGISTERED")],
        [refusal(400, "INVALID_ARGUMENT")],
        [Answer(status=400, body=b'{"error": {"message": "Message too big"}}')],
        [Answer(resets=True)],
        [Answer(status=502, body=b"<html>")],
    ]
    targets = [f"secret-target-{number}" for number in range(len(answers))]
    for target, script in zip(targets, answers, strict=True):
        make_phone(bea, target=target)
        fcm.script(target, *script)
    odd = make_phone(bea, target="secret-target-of-no-kind", target_kind="odd")
    write(make_conversation(ann, bea), ann, "a private word")
    port, beat = free_port(), tmp_path / "heartbeat"

    worker = workers.start(f"--metrics {port} --heartbeat {beat}", ROOST_ENV="development")
    workers.await_that(lambda: Delivery.objects.count() == len(targets) + 1 and beat.exists())
    metrics = Scrape(port).text
    worker.stop()

    assert "push.sent" in worker.log
    assert "roost_push_sent_total" in metrics
    rows = str(list(Delivery.objects.values()))
    for place, told in {"log": worker.log, "metrics": metrics, "heartbeat": beat.read_text(), "rows": rows}.items():
        assert "secret-target" not in told, place
        assert "a private word" not in told, place
        assert odd.target not in told, place


def test_no_representation_holds_a_target() -> None:
    now = datetime.now(UTC)
    due = DueClear(
        device_id=new_id(),
        user_id=new_id(),
        push_id=new_id(),
        attempts=1,
        leased_until=now,
        now=now,
        provider="fcm",
        device_user_id=None,
        device_platform="ios",
        device_provider="",
        is_session_revoked=False,
        target_kind="token",
        target="secret-target",
    )

    clear = ClearResult(due=due, state=State.DROPPED, gone_target=due.target)

    assert "secret-target" not in repr(due) + repr(clear) + repr([replace(clear, reason="gone")])
