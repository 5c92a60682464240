"""
What the push loop counts and times; how it is shown to anybody is the worker command's business.

No label holds a target, an id or a text: providers are those that are configured, and codes and reasons are words of
ours or of a provider's, only so many different ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from models.deliveries import DuePush, Kind, State
from models.queries.push_figures import Outbox, Queue, Receipts

from .breaker import Breaker
from .providers.base import Outcome, Verdict

# After these the provider may have the push, so that the next try may be its second: what devices show once.
AMBIGUOUS_CODES = frozenset({"timeout", "no_answer", "connection_failed", "provider_failed"})
# Each different word is a series that Prometheus keeps. Our providers have some forty of them.
MAX_WORDS = 100
OTHER = "other"

_WORD = re.compile(r"[A-Za-z0-9_]{1,60}")
_PROVIDER_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
_WAITING_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200)


class Metrics:
    """The figures of one worker, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._words: set[str] = set()
        self._messages = Counter("roost_push_messages", "Messages and calls that were planned", registry=registry)
        self._planned = Counter("roost_push_planned", "Devices that were to be told of them", registry=registry)
        self._dropped = Counter(
            "roost_push_dropped", "Pushes that were not wanted any more, by the rule", ["reason"], registry=registry
        )
        self._postponed = Counter("roost_push_postponed", "Pushes that had to wait", ["reason"], registry=registry)
        self._tries = Counter(
            "roost_push_tries", "Answers of providers", ["provider", "verdict", "code"], registry=registry
        )
        self._sent = Counter("roost_push_sent", "Pushes that a provider took", ["provider", "kind"], registry=registry)
        self._retried = Counter(
            "roost_push_retried", "Pushes that are tried again", ["provider", "code"], registry=registry
        )
        self._ambiguous = Counter(
            "roost_push_ambiguous", "Tries that may have arrived for all we know", ["provider"], registry=registry
        )
        self._dead = Counter("roost_push_dead", "Pushes that were given up", ["provider", "code"], registry=registry)
        self._invalidated = Counter(
            "roost_push_invalidated", "Targets that a provider does not know any more", ["provider"], registry=registry
        )
        self._queue_age = Histogram(
            "roost_push_queue_age_seconds",
            "From when a push was due until a worker took it",
            ["provider"],
            buckets=_WAITING_BUCKETS,
            registry=registry,
        )
        self._provider_seconds = Histogram(
            "roost_push_provider_seconds",
            "How long providers took to answer",
            ["provider"],
            buckets=_PROVIDER_BUCKETS,
            registry=registry,
        )
        self._latency = Histogram(
            "roost_push_latency_seconds",
            "From a message's commit to the first answer of the provider, graces and pace included",
            ["provider"],
            buckets=_WAITING_BUCKETS,
            registry=registry,
        )
        self._paused = Gauge(
            "roost_push_provider_paused", "1 while its breaker is open", ["provider"], registry=registry
        )
        self._slots = Gauge(
            "roost_push_provider_slots", "Pushes that may be in flight now", ["provider"], registry=registry
        )
        self._in_flight = Gauge("roost_push_in_flight", "Pushes in flight", ["provider"], registry=registry)
        self._queue = Gauge(
            "roost_push_queue", "Pushes that wait: due, or for their time", ["provider", "state"], registry=registry
        )
        self._oldest = Gauge(
            "roost_push_oldest_seconds", "For how long the oldest has been due", ["provider"], registry=registry
        )
        self._outbox = Gauge("roost_push_outbox", "Messages that are not planned yet", registry=registry)
        self._outbox_oldest = Gauge(
            "roost_push_outbox_oldest_seconds", "How old the oldest of them is", registry=registry
        )
        self._deliveries = Gauge(
            "roost_push_last_day",
            "Pushes of the last day, by what was reported",
            ["platform", "what"],
            registry=registry,
        )
        self._ratio = Gauge(
            "roost_push_receipt_ratio", "Share of the last day's pushes", ["platform", "what"], registry=registry
        )
        self._receipt_seconds = Gauge(
            "roost_push_receipt_seconds",
            "Median time from the provider's answer to the app's report, last day",
            ["platform", "what"],
            registry=registry,
        )

    # --- what the loop does

    def planned(self, devices: int) -> None:
        """So many devices are to be told of something."""
        self._planned.inc(devices)

    def messages_planned(self, count: int) -> None:
        """So many rows of the outbox are done."""
        self._messages.inc(count)

    def claimed(self, provider: str, dues: Sequence[DuePush]) -> None:
        """These were taken just now."""
        for due in dues:
            if due.not_before is not None:
                self._queue_age.labels(provider).observe(_seconds(due.not_before, due.now))

    def dropped(self, reason: str) -> None:
        """A push is not wanted any more."""
        self._dropped.labels(self._word(reason)).inc()

    def postponed(self, reason: str) -> None:
        """A push has to wait, and nobody has failed."""
        self._postponed.labels(self._word(reason)).inc()

    def tried(self, provider: str, outcome: Outcome, seconds: float) -> None:
        """A provider has answered, or has not."""
        code = self._code(outcome)
        self._tries.labels(provider, outcome.verdict.name.lower(), code).inc()
        self._provider_seconds.labels(provider).observe(seconds)
        if outcome.code in AMBIGUOUS_CODES:
            self._ambiguous.labels(provider).inc()
        if outcome.verdict is Verdict.TARGET_GONE:
            self._invalidated.labels(provider).inc()

    def ended(self, provider: str, kind: Kind, state: State, outcome: Outcome) -> None:
        """What follows from a try, or from two where the first push was too big."""
        if state is State.SENT:
            self._sent.labels(provider, kind.value).inc()
        elif state is State.PENDING:
            self._retried.labels(provider, self._code(outcome)).inc()
        elif state is State.DEAD:
            self._dead.labels(provider, self._code(outcome)).inc()

    def not_renderable(self, provider: str) -> None:
        """A push could not even be made."""
        self._dead.labels(provider, "not_renderable").inc()

    def answered_first(self, provider: str, due: DuePush, seconds_since_claim: float) -> None:
        """
        The provider has answered for the first time to the news of this message.

        By the database's clock until the claim, so that no two clocks are compared. What waited for the morning, or for
        an earlier try, tells of something else.
        """
        if due.message_created_at is not None and due.attempts == 1 and not due.is_deferred:
            waited = _seconds(due.message_created_at, due.now)
            self._latency.labels(provider).observe(waited + seconds_since_claim)

    def watch(self, provider: str, breaker: Breaker, in_flight: Callable[[], int]) -> None:
        """Look at these whenever somebody asks, from whatever thread."""
        self._paused.labels(provider).set_function(lambda: float(breaker.is_open))
        self._slots.labels(provider).set_function(lambda: float(breaker.slots))
        self._in_flight.labels(provider).set_function(lambda: float(in_flight()))

    # --- what the database knows

    def show_queues(self, queues: Mapping[str, Queue], outbox: Outbox) -> None:
        """This is what waits."""
        for provider, queue in queues.items():
            self._queue.labels(provider, "due").set(queue.due)
            self._queue.labels(provider, "later").set(queue.later)
            self._oldest.labels(provider).set(queue.oldest_seconds)
        self._outbox.set(outbox.waiting)
        self._outbox_oldest.set(outbox.oldest_seconds)

    def forget_queues(self) -> None:
        """Nobody knows what waits: better no figure than one that looks like now's."""
        self._queue.clear()
        self._oldest.clear()
        self._outbox.set(nan)
        self._outbox_oldest.set(nan)

    def show_receipts(self, platforms: Sequence[Receipts]) -> None:
        """This is what apps have reported."""
        for gauge in (self._deliveries, self._ratio, self._receipt_seconds):
            gauge.clear()
        for one in platforms:
            self._deliveries.labels(one.platform, "sent").set(one.sent)
            for what in ("received", "displayed", "opened"):
                self._deliveries.labels(one.platform, what).set(getattr(one, what))
                self._ratio.labels(one.platform, what).set(getattr(one, f"{what}_ratio"))
                seconds = getattr(one, f"{what}_seconds")
                if seconds is not None:
                    self._receipt_seconds.labels(one.platform, what).set(seconds)

    # --- labels

    def _code(self, outcome: Outcome) -> str:
        return self._word(outcome.code) if outcome.code else outcome.verdict.name.lower()

    def _word(self, word: str) -> str:
        """The word itself, as long as there are not too many different ones."""
        if word not in self._words:
            if len(self._words) >= MAX_WORDS or not _WORD.fullmatch(word):
                return OTHER
            self._words.add(word)
        return word


def _seconds(since: datetime, until: datetime) -> float:
    return max(0.0, (until - since).total_seconds())
