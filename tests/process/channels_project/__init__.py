"""A Django project with Channels, which has one address for each thing that test_channels.py asks of a server.

Run by ``twistd -n twistedws --app-dir tests/process channels_project.asgi:application``; settings.py says which variables it reads.
"""
