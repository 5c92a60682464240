"""The ASGI entry point: HTTP to Django, websockets to the consumers. Any ASGI server can run it."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "server.settings")

from django.core.asgi import get_asgi_application

# Before anything of ours is imported: it loads the apps.
django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402

from consumers.routing import urlpatterns  # noqa: E402

from . import wiring  # noqa: E402

wiring.connect()

application = ProtocolTypeRouter({"http": django_application, "websocket": URLRouter(urlpatterns)})
