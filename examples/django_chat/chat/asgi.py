"""The ASGI application: requests go to Django's views, WebSockets to the consumer."""

from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")
views = get_asgi_application()  # before what needs the settings is imported

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402

from .urls import websocket_urlpatterns  # noqa: E402

# Where users log in, AuthMiddlewareStack stands in place of SessionMiddlewareStack.
sockets = AllowedHostsOriginValidator(SessionMiddlewareStack(URLRouter(websocket_urlpatterns)))
application = ProtocolTypeRouter({"http": views, "websocket": sockets})
