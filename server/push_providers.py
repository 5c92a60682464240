"""Push providers of the deployment's own, named by ``ROOST_PUSH_PROVIDERS``. See docs/push.md."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection, Iterable, Iterator

from push.providers.base import Provider

# As long as a device's ``push_provider`` may be.
_NAME = re.compile(r"[a-z0-9_-]{1,20}")


class BadProvider(Exception):
    """A provider is configured, and cannot be made; the text says why."""


def load(paths: Iterable[str], *, taken: Collection[str]) -> Iterator[Provider]:
    """
    Make the providers that these ``package.module:factory`` name; a factory is called without arguments.

    Raises:
        BadProvider: there is no such factory, it fails, or what it makes is no provider, or has a name that is taken.
    """
    names = set(taken)
    for path in paths:
        provider = _made(path)
        if problem := _problem(provider, names):
            raise BadProvider(f"ROOST_PUSH_PROVIDERS: {path} makes no provider: {problem}")
        names.add(provider.name)
        yield provider


def _made(path: str) -> Provider:
    module_name, _, factory_name = path.partition(":")
    if not module_name or not factory_name:
        raise BadProvider(f"ROOST_PUSH_PROVIDERS: {path!r} is not of the form package.module:factory")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        made: Provider = factory()
    except Exception as error:
        raise BadProvider(f"ROOST_PUSH_PROVIDERS: {path} fails: {type(error).__name__}: {error}") from error
    return made


def _problem(provider: Provider, taken: set[str]) -> str | None:
    """What keeps this from being a provider: it comes from elsewhere, and nobody else has checked its types."""
    name = getattr(provider, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return "its name is not one of up to 20 small letters, digits, hyphens and underscores"
    if name in taken:
        return f"there is another one of the name {name!r}"
    concurrency = getattr(provider, "concurrency", None)
    if not _is_count(concurrency):
        return "its concurrency is no number above zero"
    if not _is_count(getattr(provider, "per_minute", None) or concurrency):
        return "its per_minute is no number above zero"
    for method in ("deliver", "close"):
        if not inspect.iscoroutinefunction(getattr(provider, method, None)):
            return f"it has no coroutine {method}()"
    return None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
