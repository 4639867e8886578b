"""The same WSGI applications with WebSockets under gunicorn, with gevent-websocket's worker, and under this server.

``scenarios`` has what a client does, and returns what came of it in a few words; ``table`` has what is to come of it under each server,
and why where they differ. ``report`` runs test_wsgi_side_by_side.py and writes docs/wsgi-side-by-side.md.
"""
