"""
The peer that most Django projects have: a chat consumer as the Channels tutorial teaches it, on plain Daphne.

``daphne -p PORT bench.tutorial:application``. A text ``{"echo": …}`` is answered to its sender, every other one goes to
the group through the Redis channel layer. Nothing is stored.
"""

import json
import os

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [{"address": os.environ["REDIS_URL"], "socket_timeout": 15}]},
        }
    },
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.urls import path  # noqa: E402


class ChatConsumer(AsyncWebsocketConsumer):
    """One room for all."""

    async def connect(self) -> None:
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        message = json.loads(text_data or "")
        if "echo" in message:
            await self.send(text_data=json.dumps(message))
        else:
            await self.channel_layer.group_send("room", {"type": "chat.message", "message": message})

    async def chat_message(self, event: dict[str, object]) -> None:
        await self.send(text_data=json.dumps({"message": event["message"]}))


application = ProtocolTypeRouter({"websocket": URLRouter([path("room", ChatConsumer.as_asgi())])})
