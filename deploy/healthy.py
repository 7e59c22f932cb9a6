"""Says by its exit status whether a service answers: `healthy.py PORT` connects, `healthy.py PORT /path` asks over HTTP too."""

import socket
import sys
from urllib.request import urlopen

SECONDS = 4

if len(sys.argv) > 2:
    urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", timeout=SECONDS).close()
else:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), SECONDS).close()
