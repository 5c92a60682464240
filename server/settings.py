"""Django settings: one file; the environment (``env.py``) is the only difference between machines."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from .env import load

ROOT = Path(__file__).resolve().parent.parent
ROOST = load()

SECRET_KEY = ROOST.secret_key
DEBUG = ROOST.debug
ALLOWED_HOSTS = ROOST.words(ROOST.allowed_hosts)
ROOT_URLCONF = "server.urls"
ASGI_APPLICATION = "server.asgi.application"
AUTH_USER_MODEL = "messaging.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
APPEND_SLASH = False

INSTALLED_APPS = [
    "server.apps.RoostAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "corsheaders",
    "channels",
    "allauth",
    "allauth.account",
    "allauth.headless",
    "models.apps.MessagingConfig",
    "server.apps.ServerConfig",
]

# --- accounts: e-mail and password, everything else by code

HEADLESS_ONLY = True
HEADLESS_CLIENTS = ("app",)
HEADLESS_TOKEN_STRATEGY = "server.accounts.strategy.TokenStrategy"  # noqa: S105 - a class
ACCOUNT_ADAPTER = "server.accounts.adapter.AccountAdapter"
ACCOUNT_SIGNUP_FORM_CLASS = "server.accounts.forms.SignupForm"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_ENABLED = True
ACCOUNT_EMAIL_VERIFICATION_SUPPORTS_RESEND = True
ACCOUNT_PASSWORD_RESET_BY_CODE_ENABLED = True
# Mails may take a few minutes; the number of tries is limited all the same.
ACCOUNT_EMAIL_VERIFICATION_BY_CODE_TIMEOUT = ACCOUNT_PASSWORD_RESET_BY_CODE_TIMEOUT = 15 * 60
# Whoever has read the code and chosen a password need not type it again.
ACCOUNT_LOGIN_ON_PASSWORD_RESET = True
# One address per account; a new one replaces it once its code was entered, and the old one is told.
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True
# An access token alone, stolen or lent, must not move an account to another address.
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
# Where mails send people who tried to sign up twice, or have forgotten that they never did.
HEADLESS_FRONTEND_URLS = {name: ROOST.public_url or "/" for name in ("account_signup", "account_reset_password")}

MIDDLEWARE = [
    "server.health.middleware",
    "django.middleware.security.SecurityMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "server" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _database(url: str) -> dict[str, object]:
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "roost",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0,
        "OPTIONS": {
            **dict(parse_qsl(parts.query)),
            # Two more than threads: health checks and Daphne's own thread never wait for a busy pool.
            "pool": {
                "min_size": 1,
                "max_size": ROOST.database_threads + 2,
                "timeout": 5,
            },
            "options": "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s",
        },
    }


DATABASES = {"default": _database(ROOST.database_url)}
# Django's migrations lock whole tables and may take longer than a request ever should; see management/commands.

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        # Without a time-out of ours redis-py's default equals the layer's blocking read and kills consumers.
        "CONFIG": {
            "hosts": [
                {
                    "address": ROOST.redis_url,
                    "socket_timeout": 15,
                    "socket_connect_timeout": 2,
                }
            ]
        },
    }
}

# allauth counts log-ins here. Time-outs in seconds; without `retry` redis-py would try again for ten of them.
CACHES = {
    "default": {
        "BACKEND": "server.cache.SteadyCache",
        "LOCATION": ROOST.redis_url,
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1, "retry": None, "serializer": "server.cache.Json"},
        "KEY_PREFIX": "roost",
    }
    if ROOST.redis_url
    else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
}

PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
# Django's own beside it would hash every wrong password twice.
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]

# The admin's, see server/pages.py.
STATIC_URL = "/static/"

if ROOST.email_url:
    _mail = urlsplit(ROOST.email_url)
    EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    EMAIL_HOST, EMAIL_PORT = (
        _mail.hostname or "",
        _mail.port or (465 if _mail.scheme == "smtps" else 587),
    )
    EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = (
        unquote(_mail.username or ""),
        unquote(_mail.password or ""),
    )
    EMAIL_USE_SSL = _mail.scheme == "smtps"
    EMAIL_USE_TLS = not EMAIL_USE_SSL and ssl.HAS_TLSv1_2
    EMAIL_TIMEOUT = 10
else:
    EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
DEFAULT_FROM_EMAIL = ROOST.email_from

# The admin's log-ins, and unfinished account flows; apps have sessions of their own (models/device.py).
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ROOST.is_production
# Only where people come by https is http worth refusing; in a closed network it may be all there is.
SECURE_SSL_REDIRECT = ROOST.public_url.startswith("https://")
SECURE_HSTS_SECONDS = 365 * 86_400 if SECURE_SSL_REDIRECT else 0
# W005 and W021 want a promise for every other name of the domain too, which is not ours to give.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Pages of these origins may call the API; they send tokens, never cookies.
CORS_ALLOWED_ORIGINS = [origin for origin in ROOST.words(ROOST.allowed_origins) if origin != "*"]
CORS_ALLOW_ALL_ORIGINS = "*" in ROOST.words(ROOST.allowed_origins)
CORS_URLS_REGEX = r"^/(v1|_allauth)/"
CORS_ALLOW_HEADERS = ("accept", "authorization", "content-type", "x-roost-device", "x-session-token")
CORS_EXPOSE_HEADERS = ("Retry-After",)
CORS_PREFLIGHT_MAX_AGE = 86_400
# What a request may hold; files go elsewhere. Everything else is answered with 413 (server/body_limit.py).
DATA_UPLOAD_MAX_MEMORY_SIZE = 1 << 20
