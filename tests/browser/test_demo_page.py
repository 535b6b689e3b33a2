"""The page of `streamer demo`, as whoever tries the program meets it."""

import re
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest
from conftest import Opened, ledger_row, number, wait
from playwright.sync_api import Browser, Locator, Page, expect
from processes import Process, wait_until

TOLD = re.compile(r"Live page: (http://127\.0\.0\.1:\d+)")
# Opens the other tab; gives what the first letter with tiles is about, and whether its plots are there then.
SWITCH = """() => new Promise((done) => {
    const look = () => {
        if (!$("tiles").children.length) return;
        watch.disconnect();
        const points = Bokeh.documents[0].get_model_by_name("diffraction/points");
        done([JSON.parse(page.mail.tiles).stream, points ? points.get_column("x").length > 0 : false]);
    };
    const watch = new MutationObserver(look);
    document.querySelector("[role=tab][data-stream=diffraction]").click();
    watch.observe($("tiles"), { childList: true });
})"""


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The address of the page of a running demo. Its control socket is its own: another demo may run."""
    folder = Path(mkdtemp(prefix="st-", dir="/tmp"))
    command = [sys.executable, "-m", "streamer.cli", "demo", "--no-browser", "--duration", "0"]
    own = ["env", f"XDG_RUNTIME_DIR={folder}", "COLUMNS=200"]
    try:
        with Process([*own, *command, "--directory", folder / "out"], folder / "demo.log") as process:
            told = wait_until(lambda: told_by(process), "the demo tells its page")
            wait_until(lambda: alive(told), "the page is served")
            yield told
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def told_by(process: Process) -> str:
    if not process.running:
        raise RuntimeError(f"the demo ended:\n{process.text[-3000:]}")
    found = TOLD.search(process.text)
    return found[1] if found else ""


def wait_to_rise(page: Page, count: Locator) -> None:
    before = number(count)
    wait(page, lambda: number(count) > before, "the ledger moves")


def alive(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/alive", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_the_page_of_the_demo_moves_on_both_tabs(demo: str, browser: Browser) -> None:
    with Opened(browser, f"{demo}/") as opened:
        page = opened.page
        expect(page.locator("[role=tab]")).to_have_count(2)
        for stream in ("droplets", "diffraction"):
            if stream == "diffraction":
                assert page.evaluate(SWITCH) == ["diffraction", True]
            received = ledger_row(page, "received")
            expect(received).to_be_visible()
            wait_to_rise(page, received)
            assert page.locator(".plot:visible canvas").count() >= 6
        expect(page.locator("#state")).to_have_text("running")
        expect(page.locator("#closes")).to_have_text("✓ ledger closes")
        # The demo sends its images again and again: the newest of the same novelty takes the place of the one
        # before it, perhaps while the browser asks for that one.
        assert [error for error in opened.errors if "/shot/" not in error] == []
        assert opened.foreign == []
