"""Settings: ``LAYER`` names a channel layer, ``REDIS_URL`` its Redis, ``DATABASE`` the file of users and sessions."""

from __future__ import annotations

import os

SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["127.0.0.1"]

INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "channels"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
ROOT_URLCONF = "channels_project.urls"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}}

_BACKENDS = {
    "memory": "channels.layers.InMemoryChannelLayer",
    "redis": "channels_redis.core.RedisChannelLayer",
    "redis pub/sub": "channels_redis.pubsub.RedisPubSubChannelLayer",
}
_LAYER = os.environ.get("LAYER", "memory")
# The client's own 100 connections are too few when as many consumers join a group at once.
_CONFIG = {} if _LAYER == "memory" else {"hosts": [{"address": os.environ["REDIS_URL"], "max_connections": 1000}]}
CHANNEL_LAYERS = {"default": {"BACKEND": _BACKENDS[_LAYER], "CONFIG": _CONFIG}}
