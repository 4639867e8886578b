"""Which address leads where."""

from __future__ import annotations

from django.urls import path

from . import consumers, views

urlpatterns = [
    path("hello/<str:name>/", views.hello),
    path("sync/hello/<str:name>/", views.sync_hello),
    path("form/", views.form),
    path("json/", views.json),
    path("upload/", views.upload),
    path("numbers/", views.numbers),
    path("events/<str:visit>/", views.events),
    path("file/", views.file),
    path("login/", views.login),
    path("failing/", views.failing),
    path("ended/<str:visit>/", views.ended),
]

http_consumers = [path("ticks/", consumers.Ticks.as_asgi())]

sockets = [
    path("echo/<str:visit>/", consumers.Echo.as_asgi()),
    path("sync/echo/<str:visit>/", consumers.SyncEcho.as_asgi()),
    path("json/", consumers.Sum.as_asgi()),
    path("group/<str:name>/", consumers.Group.as_asgi()),
    path("sync/group/<str:name>/", consumers.SyncGroup.as_asgi()),
    path("close/<int:code>/", consumers.Closing.as_asgi()),
    path("refusing/<str:visit>/", consumers.Refusing.as_asgi()),
    path("denying/<str:visit>/", consumers.Denying.as_asgi()),
    path("choosing/", consumers.Choosing.as_asgi()),
    path("handshake/<str:name>/", consumers.Handshake.as_asgi()),
    path("user/", consumers.User.as_asgi()),
    path("failing/before/", consumers.FailingBefore.as_asgi()),
    path("failing/later/", consumers.FailingLater.as_asgi()),
    path("failing/last/<str:visit>/", consumers.FailingLast.as_asgi()),
    path("staying/<str:visit>/", consumers.Staying.as_asgi()),
    path("staying/<str:visit>/last/", consumers.Staying.as_asgi()),
    path("late/<str:visit>/", consumers.Late.as_asgi()),
    path("pouring/", consumers.Pouring.as_asgi()),
]
guarded = [path("echo/<str:visit>/", consumers.Echo.as_asgi())]
