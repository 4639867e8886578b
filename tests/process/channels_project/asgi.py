"""The ASGI application: Django's views and an HTTP consumer beside the WebSocket consumers."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "channels_project.settings")
views = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import re_path  # noqa: E402

from . import urls  # noqa: E402

guarded = re_path(r"^guarded/", AllowedHostsOriginValidator(URLRouter(urls.guarded)))
sockets = AuthMiddlewareStack(URLRouter([guarded, *urls.sockets]))
application = ProtocolTypeRouter({"http": URLRouter([*urls.http_consumers, re_path(r"", views)]), "websocket": sockets})
