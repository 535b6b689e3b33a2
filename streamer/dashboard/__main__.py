"""The dashboard's process: `python -m streamer.dashboard FOLDER SUPERVISOR_PID`.

Owns its life: reads `dashboard.json`, serves the page until SIGTERM, leaves with a code. It follows the run
and is followed by nobody: killed at any time, it is started again and nothing else notices.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from streamer import log, memory
from streamer.dashboard.bounded_log import Bounded
from streamer.errors import EXIT_CONFIG, EXIT_RESTART, ConfigError
from streamer.ledger import Page, dashboard_layout
from streamer.stage import follow_parent

if TYPE_CHECKING:
    from bokeh.server.server import BaseServer

LIFE_MS: Final = 500
NICE: Final = 10  # below the stages, which share the cores with it
WORKERS: Final = 8  # threads that wait for the control socket; a change may hold one for two minutes

logger = logging.getLogger("dashboard")


def main() -> None:
    """Serve until SIGTERM. The one broad except."""
    folder, supervisor = Path(sys.argv[1]), int(sys.argv[2])
    follow_parent(supervisor)
    os.nice(NICE)
    log.setup("dashboard")
    for handler in logging.getLogger().handlers:
        handler.addFilter(Bounded())
    try:
        if find_spec("bokeh") is None:
            raise ConfigError("the page needs bokeh; install it with: pip install 'xfel-streamer[dashboard]'")
        asyncio.run(serve(folder))
    except ConfigError as error:
        logger.error("%s", error)
        code = EXIT_CONFIG
    except Exception:
        logger.exception("the dashboard failed and will be started again")
        code = EXIT_RESTART
    else:
        code = 0
    logging.shutdown()
    os._exit(code)  # threads that wait for an answer must not hold the end up


async def serve(folder: Path) -> None:
    """The page, until SIGTERM. Raises ConfigError if it cannot be served."""
    # Only here: without bokeh there must be one clear line and no traceback.
    from tornado.ioloop import PeriodicCallback

    from streamer.dashboard.feed import Feed
    from streamer.dashboard.page import LivePage
    from streamer.dashboard.pictures import Pictures
    from streamer.dashboard.server import Listening, listen
    from streamer.dashboard.service import make_service

    for name in ("bokeh", "tornado"):  # below: lines that anybody who asks for nonsense could make endless
        logging.getLogger(name).setLevel(logging.ERROR)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # ^C reaches the whole group; the supervisor decides
    with Feed(folder) as feed, ThreadPoolExecutor(WORKERS, "action") as executor:
        settings = feed.settings
        where = Listening(settings.address, settings.port, settings.origins)
        service = make_service(feed, settings.token, executor)
        pictures = (r"/shot/([A-Za-z0-9_-]+)/(\d{1,20})/(\d{1,20})", Pictures, {"board": service.board})
        server, port = listen(where, lambda document: LivePage(service, document).open(), [pictures])
        (folder / "dashboard.port").write_text(f"{port}\n")
        server.start()
        PeriodicCallback(sign_of_life(settings.fd, server), LIFE_MS).start()
        logger.info("the page is at http://%s:%d/", where.address, port)
        await stopped.wait()
        service.explainer.close()
        os._exit(0)  # pages need no farewell, and threads may wait for an answer for minutes


def sign_of_life(fd: int, server: "BaseServer") -> Callable[[], None]:
    """What tells the supervisor that the page is served, by how many, and that its loop turns."""
    layout = dashboard_layout()
    page = Page(memory.attach(fd), layout)
    page.announce(os.getpid(), True)

    def tell() -> None:
        page.view("pages")[0] = len(server.get_sessions())
        page.commit()
        page.progress(time.monotonic_ns())

    tell()
    return tell


if __name__ == "__main__":
    main()
