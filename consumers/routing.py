"""The websocket URL table."""

from django.urls import path

from .consumer import RealtimeConsumer

urlpatterns = [path("connection/websocket", RealtimeConsumer.as_asgi())]
