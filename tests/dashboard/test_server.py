"""The page's server as anybody on the network meets it: real requests, real websockets, no browser."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("bokeh", reason="the page needs the extra `dashboard`")

from bokeh.document import Document
from bokeh.plotting import figure
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

from streamer.dashboard import server
from streamer.dashboard.server import MAX_PAGES, Listening, listen
from streamer.errors import ConfigError

Test = Callable[[int], Awaitable[None]]


def make_page(document: Document) -> None:
    document.add_root(figure(name="plot"))


def served(test: Test) -> None:
    """Run a test against a server on a free port.

    In a thread of its own: after a browser's test a loop of Playwright's is left in the main one.
    """

    async def run() -> None:
        served, port = listen(Listening("127.0.0.1", 0), make_page)
        served.start()
        try:
            await asyncio.wait_for(test(port), 20)
        finally:
            served.stop()
            served.unlisten()
            await asyncio.sleep(0)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(run())).result()


async def get(port: int, path: str = "/", **headers: str) -> HTTPResponse:
    request = HTTPRequest(f"http://127.0.0.1:{port}{path}", headers=headers, follow_redirects=False)
    return await AsyncHTTPClient().fetch(request, raise_error=False)


async def open_socket(port: int, token: str, **headers: str) -> WebSocketClientConnection:
    request = HTTPRequest(f"ws://127.0.0.1:{port}/ws", headers=headers)
    return await websocket_connect(request, subprotocols=["bokeh", token])


def token_in(page: str) -> str:
    found = re.search(r'"token":"([^"]+)"', page)
    assert found is not None
    return found[1]


def test_the_page_comes_with_its_headers() -> None:
    async def test(port: int) -> None:
        answer = await get(port)
        assert answer.code == 200
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        nonce = re.search(r"'nonce-([^']+)'", answer.headers["Content-Security-Policy"])
        assert nonce is not None
        page = answer.body.decode()
        assert "<script>" not in page
        assert page.count(f'nonce="{nonce[1]}"') >= 1
        assert nonce[1] not in (await get(port)).headers["Content-Security-Policy"]

    served(test)


@pytest.mark.parametrize("path", ["/", "/alive", "/static/js/bokeh.min.js", "/assets/page.js"])
def test_another_host_name_is_refused_everywhere(path: str) -> None:
    async def test(port: int) -> None:
        assert (await get(port, path)).code == 200
        assert (await get(port, path, Host=f"evil.example:{port}")).code == 421
        assert (await get(port, path, Host="127.0.0.1:1")).code == 421

    served(test)


@pytest.mark.parametrize(
    "path",
    [
        *("/metadata", "/autoload.js", "/static/", "/static/js/", "/assets/", "/assets/../server.py"),
        *("/nothing", "/static/extensions/panel/x.js", "/assets/%2e%2e/server.py"),
    ],
)
def test_what_is_not_of_the_page_is_not_served(path: str) -> None:
    async def test(port: int) -> None:
        assert (await get(port, path)).code in (403, 404)

    served(test)


def test_a_session_of_another_is_not_taken_over() -> None:
    async def test(port: int) -> None:
        token = token_in((await get(port)).body.decode())
        assert (await get(port, "/?bokeh-session-id=mine")).code == 403
        assert (await get(port, f"/?bokeh-token={token}")).code == 403
        assert (await get(port, **{"Bokeh-Session-Id": "mine"})).code == 403

    served(test)


def test_a_websocket_of_another_origin_is_refused() -> None:
    async def test(port: int) -> None:
        token = token_in((await get(port)).body.decode())
        for origin in ("http://evil.example", f"http://localhost:{port}", "null"):
            with pytest.raises(HTTPClientError, match="403"):
                await open_socket(port, token, Origin=origin)
        with pytest.raises(HTTPClientError, match="421"):
            await open_socket(port, token, Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}")
        ours = await open_socket(port, token, Origin=f"http://127.0.0.1:{port}")
        assert (
            b"ACK" in (await ours.read_message() or "").encode() + (await ours.read_message() or "").encode()
        )
        ours.close()

    served(test)


def test_a_token_that_we_did_not_sign_opens_nothing() -> None:
    async def test(port: int) -> None:
        token = token_in((await get(port)).body.decode())
        forged = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
        connection = await open_socket(port, forged, Origin=f"http://127.0.0.1:{port}")
        assert await connection.read_message() is None
        connection.close()

    served(test)


def test_there_is_a_largest_number_of_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_PAGES", 2)
    assert MAX_PAGES >= 10

    async def test(port: int) -> None:
        assert [(await get(port)).code for _ in range(3)] == [200, 200, 503]
        assert b"2 pages are open" in (await get(port)).body

    served(test)


def test_a_message_that_is_too_large_ends_its_own_page() -> None:
    async def test(port: int) -> None:
        token = token_in((await get(port)).body.decode())
        connection = await open_socket(port, token, Origin=f"http://127.0.0.1:{port}")
        await connection.write_message("x" * (server.MAX_MESSAGE_BYTES + 1))
        while await connection.read_message() is not None:
            pass
        connection.close()
        assert (await get(port, "/alive")).code == 200

    served(test)


def test_a_port_that_is_taken_is_told() -> None:
    async def test(port: int) -> None:
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1 port {port}"):
            listen(Listening("127.0.0.1", port), make_page)

    served(test)


def test_a_page_has_one_window() -> None:
    """Who reads the text of an open page must not steer as it may."""

    async def test(port: int) -> None:
        token, ours = token_in((await get(port)).body.decode()), f"http://127.0.0.1:{port}"
        first = await open_socket(port, token, Origin=ours)
        assert await first.read_message() is not None
        second = await open_socket(port, token, Origin=ours)
        assert await second.read_message() is None
        assert (second.close_code, first.close_code) == (1008, None)
        second.close()
        first.close()
        await asyncio.sleep(0.05)

    served(test)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("PUSH-DOC", {"doc": {}}),
        ("PATCH-DOC", {"events": [{"kind": "RootAdded", "model": {"type": "object", "name": "Div"}}]}),
        ("PATCH-DOC", {"events": [{"kind": "TitleChanged", "title": "x"}]}),
        ("PATCH-DOC", {"events": 7}),
    ],
)
def test_a_page_that_writes_its_own_document_is_closed(kind: str, content: object) -> None:
    async def test(port: int) -> None:
        token = token_in((await get(port)).body.decode())
        socket = await open_socket(port, token, Origin=f"http://127.0.0.1:{port}")
        for _ in range(3):  # ACK: header, metadata, content
            assert await socket.read_message() is not None
        for part in ({"msgid": "1", "msgtype": kind}, {}, content):
            await socket.write_message(json.dumps(part))
        while await socket.read_message() is not None:
            pass
        assert socket.close_code == 1008
        socket.close()
        await asyncio.sleep(0.05)

    served(test)
