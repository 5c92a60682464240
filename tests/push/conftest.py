"""Fixtures of the push tests."""

from collections.abc import AsyncIterator, Iterator

import pytest

from push.providers.fcm import FcmProvider
from tests.fcm import Fcm


@pytest.fixture
def fcm() -> Iterator[Fcm]:
    """The local stand-in for FCM."""
    with Fcm() as endpoint:
        yield endpoint


@pytest.fixture
async def provider(fcm: Fcm) -> AsyncIterator[FcmProvider]:
    """Our provider, pointed at it."""
    provider = FcmProvider(fcm.credentials, fcm.url, concurrency=8)
    yield provider
    await provider.close()
