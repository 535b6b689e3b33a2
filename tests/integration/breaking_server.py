"""A PUSH server that sends the bytes of a file to its first receiver, then nothing, until it is killed.

    python tests/integration/breaking_server.py PORT FILE

What the file ends with may be half a message. Prints `sent` when the kernel has taken all of it. Plain
sockets and ZMTP 3 (https://rfc.zeromq.org/spec/23): a socket of libzmq sends whole messages only.
"""

import socket
import sys
import time
from pathlib import Path

GREETING = (b"\xff" + bytes(8) + b"\x7f\x03\x00NULL").ljust(64, b"\0")
READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x04PUSH"
# Longer than any test.
REST_S = 600.0


def main() -> None:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(GREETING + READY)
            peer.sendall(Path(sys.argv[2]).read_bytes())
            print("sent", flush=True)
            time.sleep(REST_S)


if __name__ == "__main__":
    main()
