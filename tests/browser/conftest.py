"""A running pipeline with its live page, and a browser to look at it: Debian's chromium and Playwright."""

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
sys.path.append(str(Path(__file__).parents[1] / "integration"))

from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright
from processes import RunningPipeline, free_port, simulator

from streamer import control

# Of whatever a page waits for: the browser and a pipeline share two cores with other tests.
PATIENCE_MS = 40_000
expect.set_options(timeout=PATIENCE_MS)
CHROMIUM = shutil.which("chromium")
CONFIG = """
[metrics]
port = 0
[dashboard]
port = {port}
[output]
directory = "{folder}/out"
segment_bytes = 8388608
reserve_bytes = 0
[[stream]]
name = "droplets"
bundles = ["droplet_cnn", "droplet_vae"]
threads = 1
deadline_s = 0.0
[stream.source]
endpoint = "{endpoint}"
socket = "PULL"
source = "SIM_DET_DROPLETS/DET/CAM:output"
key = "image.data"
pulse_key = "image.pulseId"
axes = "pulse slow fast"
shape = [128, 128]
dtype = "uint16"
[stream.publish]
results = "tcp://127.0.0.1:{results}"
verdicts = "tcp://127.0.0.1:{verdicts}"
[[stream.route]]
name = "round"
when = "p.Round > 0.01"
[[stream.route]]
name = "sample"
one_in = 10
"""
# Few different images, sent slowly: three networks and a browser share the cores of a test machine.
LOAD = ("--kind", "droplets", "--pulses", "8", "--bank", "48", "--evenness", "0.3", "--rate", "4")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a browser's; without one it is skipped, and says so."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(240))
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no chromium: apt-get install chromium"))


@dataclass(frozen=True)
class Live:
    """A pipeline whose page is served."""

    pipeline: RunningPipeline
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def token(self) -> str:
        return control.token_file(self.pipeline.control).read_text().strip()


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    folder, port = Path(mkdtemp(prefix="st-", dir="/tmp")), free_port()
    load = simulator(folder, *LOAD)
    ports = {"port": port, "results": free_port(), "verdicts": free_port()}
    text = CONFIG.format(folder=folder, endpoint=load.endpoint, **ports)
    try:
        with load.process, RunningPipeline(folder, text) as pipeline:
            pipeline.ready().wait_for("droplets", lambda counts: counts["received"] > 0)
            yield Live(pipeline, port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page, open and connected. Requests to other hosts are broken off and noted, and so are its errors."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._context = browser.new_context(viewport={"width": 1280, "height": 720}, color_scheme="light")
        self._url = url
        self.page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self.foreign: list[str] = []

    def __enter__(self) -> Self:
        page, errors = self.page, self.errors
        page.route("**/*", self._look)
        page.on(
            "console",
            lambda said: errors.append(f"{said.text} {said.location}") if said.type == "error" else None,
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(self._url)
        page.wait_for_selector("body[data-ready=yes]")
        return self

    def __exit__(self, *_: object) -> None:
        self._context.close()

    def _look(self, route: Route) -> None:
        ours = (self._url, self._url.replace("http", "ws"), "data:", "blob:")
        if route.request.url.startswith(ours):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()


@pytest.fixture
def opened(browser: Browser, live: Live) -> Iterator[Opened]:
    with Opened(browser, live.url) as page:
        yield page


@pytest.fixture
def page(opened: Opened) -> Page:
    return opened.page


def number(locator: Locator) -> float:
    """The first number of a text, thousands' commas left out."""
    found = re.search(r"-?[\d,]*\.?\d+", locator.inner_text())
    return float(found[0].replace(",", "")) if found else 0.0


def ledger_row(page: Page, name: str) -> Locator:
    return page.locator("#ledger tr", has=page.get_by_role("rowheader", name=name, exact=True)).locator("td")


def wait(page: Page, look: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """As wait_until, while the page goes on."""
    for _ in range(int(limit_s / 0.2)):
        if look():
            return
        page.wait_for_timeout(200)
    raise TimeoutError(f"{what}: not within {limit_s:g} s")
