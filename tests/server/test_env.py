"""Settings: read once, told all at once when they do not fit, and refused in production when they are unsafe."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from server import env

Load = Callable[[dict[str, str]], env.Env]

SAFE = {
    "ROOST_ENV": "production",
    "ROOST_SECRET_KEY": "n9Xk2vQ7pL4sT8wZ1cR6bY3mJ5hG0dF-aE_uIoPqWxMzNtBvCy",
    "ROOST_ALLOWED_HOSTS": "chat.example.com",
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """``load({...})`` reads these variables, whatever was read before."""

    def read(variables: dict[str, str]) -> env.Env:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return env.load.__wrapped__()

    return read


def test_safe_settings_are_taken_in_production(load: Load) -> None:
    assert load(SAFE).is_production


def test_defaults_are_for_development(load: Load) -> None:
    assert not load({}).is_production


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROOST_SECRET_KEY", env.DEVELOPMENT_SECRET),
        ("ROOST_SECRET_KEY", "short"),
        ("ROOST_SECRET_KEY", "a" * 60),
        ("ROOST_DEBUG", "true"),
        ("ROOST_ALLOWED_HOSTS", "*"),
        ("ROOST_ALLOWED_HOSTS", "chat.example.com,*"),
        ("ROOST_ALLOWED_ORIGINS", "*"),
        ("ROOST_REQUIRE_DURABLE_DATABASE", "false"),
        ("ROOST_PUSH_PROVIDER", "memory"),
    ],
)
def test_unsafe_settings_are_refused_in_production_by_name(load: Load, name: str, value: str) -> None:
    with pytest.raises(env.BadEnvironment) as refused:
        load({**SAFE, name: value})

    assert name in str(refused.value)
    assert SAFE["ROOST_SECRET_KEY"] not in str(refused.value)


def test_everything_that_does_not_fit_is_told_at_once(load: Load) -> None:
    with pytest.raises(env.BadEnvironment) as refused:
        load({"ROOST_PORT": "many", "ROOST_PING_SECONDS": "0"})

    assert "ROOST_PORT" in str(refused.value)
    assert "ROOST_PING_SECONDS" in str(refused.value)


def test_a_variable_set_to_nothing_is_unset(load: Load) -> None:
    assert load({"ROOST_PORT": ""}).port == 8000


@pytest.mark.parametrize("key", ["nonsense!", "AAAA", "-----BEGIN PRIVATE KEY-----"])
def test_a_key_that_cannot_sign_pushes_is_told_by_name_and_not_shown(load: Load, key: str) -> None:
    with pytest.raises(env.BadEnvironment) as refused:
        load({"ROOST_VAPID_PRIVATE_KEY": key})

    assert "ROOST_VAPID_PRIVATE_KEY" in str(refused.value)
    assert key not in str(refused.value)
