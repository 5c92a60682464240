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

from .body_limit import BodyLimit  # noqa: E402
from .gate import Gate  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": BodyLimit(django_application, settings.DATA_UPLOAD_MAX_MEMORY_SIZE),
        "websocket": Gate(URLRouter(urlpatterns), settings.ROOST.words(settings.ROOST.allowed_origins)),
    }
)
