"""Open pages of the live view, as a browser holds them: loaded, connected, taking what comes; nothing drawn.

    python -m benchmarks.pages '{"url": "http://127.0.0.1:5006", "pages": 10}'

What drawing costs is the viewer's machine's matter. Any line on stdin is answered with the messages and
bytes that each page got so far. Bokeh's protocol: a token in the page is the websocket's subprotocol; a
message is a header, metadata and content as JSON, and binary buffers.
"""

import asyncio
import json
import re
import sys
import time
from typing import Any, Final
from urllib.request import urlopen

from tornado.httpclient import HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from benchmarks.helper import BenchmarkError, options, say

# A server that has just started, on a busy machine.
OPEN_S: Final = 60.0


class Page:
    """One tab."""

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0

    async def hold(self, url: str, opened: asyncio.Semaphore) -> None:
        """Load the page, ask for its document, and take what comes until the server ends it."""
        token = await asyncio.to_thread(_token, url)
        request = HTTPRequest(
            url.replace("http://", "ws://", 1).rstrip("/") + "/ws",
            headers={"Origin": url.rstrip("/"), "Sec-WebSocket-Protocol": f"bokeh, {token}"},
        )
        socket = await websocket_connect(request, subprotocols=["bokeh", token], max_message_size=1 << 28)
        await self._ask_for_document(socket)
        opened.release()
        while (part := await socket.read_message()) is not None:
            self.messages += 1
            self.bytes += len(part)

    async def _ask_for_document(self, socket: WebSocketClientConnection) -> None:
        header = {"msgid": str(time.monotonic_ns()), "msgtype": "PULL-DOC-REQ"}
        for part in (header, {}, {}):
            await socket.write_message(json.dumps(part))


def _token(url: str) -> str:
    """Of a new session. Raises BenchmarkError if the page has none."""
    give_up_s = time.monotonic() + OPEN_S
    while True:
        try:
            with urlopen(url, timeout=OPEN_S) as answer:
                text = answer.read().decode()
            break
        except OSError as error:
            if time.monotonic() > give_up_s:
                raise BenchmarkError(f"no page at {url}: {error}") from error
            time.sleep(0.2)  # the server is starting; bounded above
    found = re.search(r'"token":\s*"([^"]+)"', text)
    if found is None:
        raise BenchmarkError(f"{url}: expected a page with a session's token, got {text[:200]!r}")
    return found[1]


async def main(url: str, pages: int) -> None:
    held, opened = [Page() for _ in range(pages)], asyncio.Semaphore(0)
    tasks = [asyncio.create_task(page.hold(url, opened)) for page in held]
    waiting = asyncio.create_task(_all(opened, pages))
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED, timeout=OPEN_S)
    if waiting not in done:
        for task in done:
            task.result()
        raise BenchmarkError(f"{url}: not every page was opened within {OPEN_S:g} s")
    say({"ready": True})
    while await asyncio.to_thread(sys.stdin.readline):
        say(_counts(held, tasks))
    for task in tasks:
        task.cancel()


async def _all(opened: asyncio.Semaphore, pages: int) -> None:
    for _ in range(pages):
        await opened.acquire()


def _counts(held: list[Page], tasks: list["asyncio.Task[None]"]) -> dict[str, Any]:
    return {
        "messages": [page.messages for page in held],
        "bytes": [page.bytes for page in held],
        "open": sum(not task.done() for task in tasks),
    }


if __name__ == "__main__":
    asyncio.run(main(**options()))
