"""`manage.py worker`: plans and sends pushes, and removes what has expired. Run as many as needed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import structlog
import uvloop
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import Error

from consumers.namespaces import Namespaces
from models import threads
from models.deliveries import Content
from models.errors import Unavailable
from models.operations import history, maintenance
from push.metrics import Metrics
from push.payload import Look
from push.planner import Schedule
from push.providers.base import Provider
from push.providers.console import ConsoleProvider
from push.providers.memory import MemoryProvider
from push.words import BadWords, Dictionary
from push.worker import Worker
from server import logs, push_providers
from server.doorbell import Doorbell
from server.env import BUILT_IN_PROVIDERS, Env
from server.live_devices import LiveDevices
from server.push_providers import BadProvider
from server.summaries import Summaries
from server.worker_metrics import MetricsServer

log = structlog.get_logger("worker")

MAINTENANCE_SECONDS = 300.0
# A health check that looks every half a minute sees several of these.
HEARTBEAT_SECONDS = 5.0


class Command(BaseCommand):
    """Runs until SIGTERM or SIGINT, then finishes what is in flight."""

    help = "Send pushes and remove what has expired, until stopped."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--heartbeat", type=Path, help="file to rewrite every five seconds while the outbox can be read"
        )
        parser.add_argument("--metrics", type=int, metavar="PORT", help="where to answer Prometheus under /metrics")

    def handle(self, *args: Any, heartbeat: Path | None, metrics: int | None, **options: Any) -> None:
        env: Env = settings.ROOST
        logs.configure(level=env.log_level, as_json=env.is_production)
        try:
            providers = _providers(env)
            dictionary = Dictionary.of(env.push_locales)
        except BadProvider as error:
            raise CommandError(str(error)) from None
        except BadWords as error:
            raise CommandError(f"ROOST_PUSH_LOCALES: {error}") from None
        port = env.worker_metrics_port if metrics is None else metrics
        uvloop.run(_work(env, providers, dictionary, heartbeat, port))


async def _work(
    env: Env, providers: list[Provider], dictionary: Dictionary, heartbeat: Path | None, metrics_port: int
) -> None:
    metrics = Metrics()
    shown = MetricsServer(metrics, [provider.name for provider in providers])
    if metrics_port:
        try:
            shown.start(env.host, metrics_port)
        except OSError as error:
            raise CommandError(f"Nobody can listen on {env.host}:{metrics_port}: {error.strerror}") from None
    schedule = Schedule(
        default_provider=env.push_provider,
        grace_seconds=env.push_grace_seconds,
        active_elsewhere_seconds=env.push_active_elsewhere_seconds,
        ttl_seconds=env.push_ttl_seconds,
    )
    doorbell = Doorbell(env.redis_url)
    live_devices = LiveDevices(env.redis_url)
    look = Look(words_of=dictionary.words_of, content=Content(env.push_content), link=_link(env), sound=env.push_sound)
    worker = Worker(
        providers,
        schedule,
        live_devices.which,
        look=look,
        stale_after=timedelta(days=env.push_stale_days),
        metrics=metrics,
    )
    doorbell.listen(worker.wake)
    if heartbeat:
        worker.on_beat(Heartbeat(heartbeat, worker).beat)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    log.info("worker.started", providers=[provider.name for provider in providers])
    maintaining = asyncio.create_task(_maintain(Summaries(env, dictionary, live_devices.which)))
    try:
        await worker.run()
    finally:
        maintaining.cancel()
        with suppress(asyncio.CancelledError):
            await maintaining
        await doorbell.close()
        await live_devices.stop()
        await shown.stop()
    log.info("worker.stopped")


def _link(env: Env) -> str:
    """Where a tap leads: the app's own address, or the page of this deployment."""
    page = f"{env.public_url.rstrip('/')}/?conversation={{conversation}}" if env.public_url else ""
    return env.push_link or page


def _providers(env: Env) -> list[Provider]:
    """
    Every provider that is configured; a device may name another than the default.

    Raises:
        BadProvider
    """
    ours = list(_our_providers(env))
    theirs = list(push_providers.load(env.words(env.push_providers), taken=BUILT_IN_PROVIDERS))
    names = [provider.name for provider in (*ours, *theirs)]
    if env.push_provider not in names:
        raise BadProvider(f"ROOST_PUSH_PROVIDER is {env.push_provider}, and there are {', '.join(names)}")
    return [*ours, *theirs]


def _our_providers(env: Env) -> Iterator[Provider]:
    yield ConsoleProvider()
    if env.push_provider == "memory":
        yield MemoryProvider()
    if env.fcm_credentials or env.push_provider == "fcm":
        # Imported here, because firebase-admin takes a second to load.
        from push.providers.fcm import FcmProvider

        try:
            yield FcmProvider(env.fcm_credentials, env.fcm_base_url)
        except (OSError, ValueError) as error:
            raise BadProvider(f"ROOST_FCM_CREDENTIALS does not hold a service account: {error}") from None
    if env.apns_key or env.push_provider == "apns":
        yield _apns(env)
    if env.vapid_private_key or env.push_provider == "webpush":
        yield _webpush(env)


def _apns(env: Env) -> Provider:
    try:
        from push.providers.apns import ApnsKey, ApnsProvider
    except ImportError:
        raise BadProvider("Apple's push service needs the extra: pip install 'roost[apns]'") from None
    try:
        key = ApnsKey.read(env.apns_key, env.apns_key_id, env.apns_team_id)
        return ApnsProvider(key, env.apns_topic, env.apns_base_url)
    except (OSError, ValueError) as error:
        raise BadProvider(f"ROOST_APNS_KEY or what belongs to it does not fit: {error}") from None


def _webpush(env: Env) -> Provider:
    try:
        from push.providers.webpush import WebPushProvider
    except ImportError:
        raise BadProvider("Web Push needs the extra: pip install 'roost[webpush]'") from None
    try:
        return WebPushProvider(env.vapid_private_key, env.vapid_subject)
    except ValueError as error:
        raise BadProvider(f"ROOST_VAPID_PRIVATE_KEY or ROOST_VAPID_SUBJECT does not fit: {error}") from None


async def _maintain(summaries: Summaries) -> None:
    while True:
        for name, job in (maintenance.jobs() | _trimming()).items():
            try:
                count = await threads.run(job)
            except (Error, Unavailable) as error:
                log.warning("maintenance.failed", job=name, error=type(error).__name__)
                continue
            if count:
                log.info("maintenance.done", job=name, rows=count)
        await _mail(summaries)
        # Spread, so that several workers do not do it at the same moment.
        await asyncio.sleep(MAINTENANCE_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - no secret


async def _mail(summaries: Summaries) -> None:
    try:
        count = await summaries.run()
    except (Error, Unavailable) as error:
        log.warning("summaries.failed", error=type(error).__name__)
        return
    if count:
        log.info("summaries.sent", mails=count)


def _trimming() -> dict[str, Callable[[], int]]:
    """A job for each namespace that keeps history: what is beyond its size and age goes."""
    namespaces = Namespaces.parse(settings.ROOST.namespaces).by_name
    return {
        f"history of {name or 'channels without namespace'}": partial(
            history.trim_history, namespace=name, size=namespace.history_size, seconds=namespace.history_seconds
        )
        for name, namespace in namespaces.items()
        if namespace.keeps_history
    }


class Heartbeat:
    """A file that is as old as the last look into the outbox; a health check compares its age."""

    def __init__(self, path: Path, worker: Worker) -> None:
        self._path = path
        self._worker = worker
        self._last = -HEARTBEAT_SECONDS

    def beat(self) -> None:
        """Rewrite the file, at most every five seconds."""
        if monotonic() - self._last < HEARTBEAT_SECONDS:
            return
        self._last = monotonic()
        # Replaced in one step, so that nobody reads half of it.
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_text(json.dumps(self._state()))
            fresh.replace(self._path)
        except OSError as error:
            log.warning("worker.no_heartbeat", error=error.strerror)

    def _state(self) -> dict[str, Any]:
        return {
            "time": time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "planned": self._worker.planned,
            "providers": {
                sender.courier.name: {
                    "paused": sender.courier.breaker.is_open,
                    "sent": sender.courier.counts.sent,
                    "dropped": sender.courier.counts.dropped,
                    "retried": sender.courier.counts.retried,
                    "dead": sender.courier.counts.dead,
                }
                for sender in self._worker.senders
            },
        }
