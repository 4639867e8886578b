"""A healthy client that says nothing: connects to the URL it is given, says so on standard output, and answers pings until it ends."""

import sys

from websockets.sync.client import connect

if __name__ == "__main__":
    with connect(sys.argv[1], ping_interval=None, proxy=None) as client:
        print("open", flush=True)
        for _ in client:
            pass
    print(f"closed {client.close_code}", flush=True)
