"""Fixtures of all tests, and the servers they run on: real ones, once per run, before Django's settings are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import django
import pytest

from tests import servers
from tests.servers import Deployment

# Set here and not in the configuration file, because pytest-django would read the settings before the servers run.
os.environ["DJANGO_SETTINGS_MODULE"] = "server.settings"


def pytest_configure(config: pytest.Config) -> None:
    servers.session().start()
    django.setup()


def pytest_unconfigure(config: pytest.Config) -> None:
    servers.session().stop()


@pytest.fixture
def deploy() -> Iterator[Callable[..., Deployment]]:
    """``deploy(webs=2, workers=1, …)`` starts a ``Deployment``; it is stopped when the test ends."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Deployment(**options))
