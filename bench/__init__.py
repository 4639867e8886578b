"""Measures twistedws and its peers: server CPU per message, memory per connection, latency. ``python bench/run.py --help``."""
