"""A running pipeline with its live page, and a browser to look at it: Debian's chromium and Playwright."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `dev`")
sys.path.append(str(Path(__file__).parents[1] / "integration"))

from playwright.sync_api import Browser, Page, Route, sync_playwright
from processes import RunningPipeline, free_port, simulator

from streamer import control

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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Seen:
    """What a page did beside showing itself."""

    errors: list[str]
    foreign: list[str]


@pytest.fixture
def seen() -> Seen:
    return Seen([], [])


@pytest.fixture
def page(browser: Browser, live: Live, seen: Seen) -> Iterator[Page]:
    """The live page, open and connected. Requests to other hosts are broken off and noted."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, color_scheme="light")
    opened = context.new_page()
    opened.set_default_timeout(30_000)
    ours = (live.url, live.url.replace("http", "ws"), "data:", "blob:")

    def look(route: Route) -> None:
        if route.request.url.startswith(ours):
            route.continue_()
        else:
            seen.foreign.append(route.request.url)
            route.abort()

    opened.route("**/*", look)
    opened.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: seen.errors.append(str(error)))
    opened.goto(live.url)
    opened.wait_for_selector("body[data-ready=yes]")
    yield opened
    context.close()
