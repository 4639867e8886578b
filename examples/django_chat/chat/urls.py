"""Which address leads where."""

from __future__ import annotations

from django.urls import path

from .consumers import ChatConsumer
from .views import join, room

urlpatterns = [path("", join), path("<slug:name>/", room)]
websocket_urlpatterns = [path("ws/<slug:room>/", ChatConsumer.as_asgi())]
