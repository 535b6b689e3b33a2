"""The web server of the page: Bokeh's, with every request checked first.

Owns which request reaches which handler, the number of pages open at once and the listening socket. The
document of a page is page.py's, the rules of who may do what are security.py's. What Bokeh offers beside the
page (an index, metadata, embedding into other sites) is not served.
"""

import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.embed.server import server_html_page_for_session
from bokeh.protocol.message import Message
from bokeh.resources import Resources
from bokeh.server.server import BaseServer
from bokeh.server.tornado import BokehTornado
from bokeh.server.views.doc_handler import DocHandler
from bokeh.server.views.static_handler import StaticHandler
from bokeh.server.views.ws import WSHandler
from bokeh.util.token import get_session_id
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from streamer.dashboard import security
from streamer.dashboard.security import Hosts
from streamer.errors import ConfigError

MAX_PAGES: Final = 50  # a control room has some ten; each costs some ms of this process a second
MAX_MESSAGE_BYTES: Final = 1 << 20  # a page sends texts of some hundred bytes
MAX_REQUEST_BYTES: Final = 1 << 16  # nothing is uploaded
BACKLOG: Final = 128  # ten tabs that open at once ask for some ten files each
UNUSED_MS: Final = 5_000  # a page that is closed, or never connected, is forgotten after this
CHECK_UNUSED_MS: Final = 2_000
TOKEN_LIFE_S: Final = 60  # from the page's text to its websocket
PING_MS: Final = 10_000
SILENCE_S: Final = 30  # of a connection that asks nothing; a browser opens another one
ASSETS: Final = Path(__file__).parent / "assets"


class Guarded(RequestHandler):
    """Every answer carries the headers; errors tell no more than their number and one line."""

    def set_default_headers(self) -> None:
        for name, value in security.headers().items():
            self.set_header(name, value)
        self.clear_header("Server")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None))[1]
        reason = self._reason
        if isinstance(error, HTTPError) and error.log_message and not error.args:
            reason = error.log_message
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {reason}\n")


class Refused(Guarded):
    """A request that names another host."""

    def prepare(self) -> None:
        raise HTTPError(421, "not a name of this page; use the address it was started with")


class NotServed(Guarded):
    def prepare(self) -> None:
        raise HTTPError(404)


class Alive(Guarded):
    """Asked by a page that has lost its connection, to know when to load itself again."""

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.write("alive\n")


class Page(Guarded, DocHandler):
    """The page itself. A session is made here and nowhere else, under a name that only we choose."""

    async def get(self, *_: Any, **__: Any) -> None:
        given = {"bokeh-session-id", "bokeh-token"} & set(self.request.arguments)
        if given or "Bokeh-Session-Id" in self.request.headers:
            raise HTTPError(403, "a page does not take over the session of another; open it without one")
        if len(list(self.application_context.sessions)) >= MAX_PAGES:
            raise HTTPError(503, f"{MAX_PAGES} pages are open, no more are served; close one and come again")
        session: Any = await self.get_session()  # type: ignore[misc]  # tornado types its wrapper loosely
        document = session.document
        nonce = secrets.token_urlsafe(16)
        page = server_html_page_for_session(
            session,
            resources=self.application.resources(),
            title=document.title,
            template=document.template,
            template_variables=document.template_variables | {"nonce": nonce},
        )
        for name, value in security.headers(nonce).items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "text/html; charset=utf-8")
        # All inline scripts of the text are Bokeh's: names of streams stand in it escaped.
        self.write(page.replace("<script>", f'<script nonce="{nonce}">'))


class Socket(Guarded, WSHandler):
    """The page's websocket: from our own page only, one for each session, no more than MAX_PAGES."""

    def check_origin(self, origin: str) -> bool:
        hosts: Hosts = self.application.hosts  # type: ignore[attr-defined]  # PageServer's
        return hosts.allows_origin(origin, self.request.host)

    async def _async_open(self, token: str) -> None:
        if len(list(self.application_context.sessions)) > MAX_PAGES:
            self.close(1013, "too many pages")
            return
        if self._is_connected(token):
            self.close(1008, "another window has this page")  # it would steer as that one may
            return
        await super()._async_open(token)

    async def _handle(self, message: Message[Any]) -> Any | None:
        if not security.is_of_a_browser(message.msgtype, message.content):
            self.close(1008, "not what a page sends")
            return None
        return await super()._handle(message)

    def _is_connected(self, token: str) -> bool:
        """Whether the session that the token names has its websocket. False for what is no token."""
        try:
            wanted = get_session_id(token)
        except (KeyError, TypeError, ValueError):  # also what is not base64 or not JSON
            return False
        sessions = self.application_context.sessions
        return any(session.id == wanted and session.connection_count > 0 for session in sessions)


class Static(Guarded, StaticHandler):
    """Bokeh's scripts, from the installed package."""


class Assets(Guarded, StaticFileHandler):
    """Our script and style."""


SERVED: Final[dict[type, type[RequestHandler]]] = {
    DocHandler: Page,
    WSHandler: Socket,
    StaticHandler: Static,
    Assets: Assets,
    Alive: Alive,
}


class PageServer(BokehTornado):
    """Bokeh's application, behind the check of the host and with our handlers in the place of its own."""

    def __init__(self, applications: dict[str, Application], hosts: Hosts, more: Sequence[Any]) -> None:
        self.hosts = hosts
        self._own = {handler for _, handler, *_ in more}
        super().__init__(
            applications,
            extra_websocket_origins=[],
            extra_patterns=[(r"/alive", Alive), (r"/assets/(.*)", Assets, {"path": str(ASSETS)}), *more],
            secret_key=secrets.token_bytes(32),
            sign_sessions=True,
            generate_session_ids=True,
            keep_alive_milliseconds=PING_MS,
            check_unused_sessions_milliseconds=CHECK_UNUSED_MS,
            unused_session_lifetime_milliseconds=UNUSED_MS,
            websocket_max_message_size_bytes=MAX_MESSAGE_BYTES,
            session_token_expiration=TOKEN_LIFE_S,
            include_headers=["Host"],
            include_cookies=[],
            use_index=False,
        )

    def resources(self, absolute_url: str | bool | None = None) -> Resources:  # noqa: ARG002
        """Bokeh's core only, from here: a page loads 1 MB and not 4, and nothing of another machine."""
        return Resources(
            mode="server", root_url="/", path_versioner=StaticHandler.append_version, components=["bokeh"]
        )

    def get_handler_delegate(
        self, request: HTTPServerRequest, target_class: type[RequestHandler], *rest: Any, **more: Any
    ) -> Any:
        """Ours for Bokeh's, and none for what we do not serve."""
        if not self.hosts.allows(request.host):
            return super().get_handler_delegate(request, Refused)
        if target_class in self._own:
            return super().get_handler_delegate(request, target_class, *rest, **more)
        if target_class in SERVED:
            return super().get_handler_delegate(request, SERVED[target_class], *rest, **more)
        return super().get_handler_delegate(request, NotServed)


@dataclass(frozen=True)
class Listening:
    """Where the page is bound; `origins` are further `host:port` that it answers to."""

    address: str
    port: int
    origins: tuple[str, ...] = ()


def listen(
    where: Listening, make_page: Callable[[Document], None], more: Sequence[Any] = ()
) -> tuple[BaseServer, int]:
    """The server, bound and not yet started, and its port. Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in where.address else socket.AF_INET
    try:
        bound = socket.create_server((where.address, where.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"dashboard: cannot listen on {where.address} port {where.port}: {error.strerror}; set another "
            "`port` in [dashboard], 0 for any free one"
        ) from error
    bound.setblocking(False)
    port: int = bound.getsockname()[1]
    application = Application(FunctionHandler(make_page))
    hosts = security.hosts(where.address, port, where.origins)
    pages = PageServer({"/": application}, hosts, more)
    http = HTTPServer(
        pages,
        max_buffer_size=MAX_MESSAGE_BYTES * 2,
        max_body_size=MAX_REQUEST_BYTES,
        idle_connection_timeout=SILENCE_S,
    )
    http.add_socket(bound)
    return BaseServer(IOLoop.current(), pages, http), port
