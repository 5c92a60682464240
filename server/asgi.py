"""The ASGI entry point: HTTP to Django, websockets to the consumers. Any ASGI server can run it."""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "server.settings")

from django.core.asgi import get_asgi_application

# Before anything of ours is imported: it loads the apps.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402

from consumers.routing import urlpatterns  # noqa: E402
from consumers.streaming import PATHS as STREAMING_PATHS  # noqa: E402
from consumers.streaming import Streaming  # noqa: E402

from .backend_api import PREFIX, BackendApi  # noqa: E402
from .body_limit import Application, BodyLimit, Receive, Scope, Send  # noqa: E402
from .gate import Gate  # noqa: E402
from .peers import Origins  # noqa: E402


def http(django: Application, backend: Application, streaming: Application) -> Application:
    """What runs at message rate, or for ever, goes past Django."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        application = backend if path.startswith(PREFIX) else streaming if path in STREAMING_PATHS else django
        await application(scope, receive, send)

    return serve


origins = Origins(settings.ROOST.words(settings.ROOST.allowed_origins))


application = ProtocolTypeRouter(
    {
        "http": BodyLimit(
            http(
                django_application,
                BackendApi(settings.ROOST.api_key),
                Streaming(origins.allow, settings.ROOST.max_connections),
            ),
            settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
        ),
        "websocket": Gate(URLRouter(urlpatterns), settings.ROOST.words(settings.ROOST.allowed_origins)),
    }
)
