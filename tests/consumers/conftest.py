"""
Fixtures: people, and an engine on the test's database.

Imported inside, because pytest reads this file before ``tests/conftest.py`` has set Django up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from consumers.engine import Engine
    from tests.consumers.phone import Person, Phone


@pytest.fixture
def alice(transactional_db: None) -> Person:
    from tests.consumers.phone import Person

    return Person("Alice")


@pytest.fixture
def bob(transactional_db: None) -> Person:
    from tests.consumers.phone import Person

    return Person("Bob")


@pytest.fixture
async def engine(transactional_db: None) -> AsyncIterator[Engine]:
    """What the sockets of a process share, joined as ``server.wiring`` does; it is the only process there is."""
    from tests.consumers.phone import make_engine

    engine = make_engine()
    await engine.start()
    yield engine
    await engine.stop()


@pytest.fixture
def phone_of(engine: Engine) -> Callable[[Person], Phone]:
    """``phone_of(alice)`` is a phone of hers, not connected yet."""
    from tests.consumers.phone import Phone

    return lambda person: Phone(engine, person.login)
