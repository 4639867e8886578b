"""A chat with Django Channels; the README beside says how to run it."""
