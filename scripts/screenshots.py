"""Pictures of the live page for the documents: `python scripts/screenshots.py [FOLDER]`.

Starts the demo, opens its page in Debian's chromium, light and dark, and writes PNGs into docs/images. Needs
the extras `dashboard` and `dev`. The pictures are of a real run; nothing in them is drawn.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, sync_playwright

IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
CHROMIUM: Final = "/usr/bin/chromium"
READY_S: Final = 180.0  # simulating events and starting six networks on a busy machine
FILL_S: Final = 45.0  # until the plots show something to look at
SIZES: Final = {"laptop": (1280, 720), "projector": (1920, 1080)}
_TOLD: Final = re.compile(r"(http://127\.0\.0\.1:\d+)\S*\s+To steer: (\S+)")


@contextmanager
def demo(folder: Path) -> Iterator[tuple[str, str]]:
    """A running demo: the address of its page and the token. Raises TimeoutError."""
    command = [sys.executable, "-m", "streamer.cli", "demo", "--no-browser", "--duration", "0"]
    with (folder / "demo.log").open("wb") as lines:
        own = os.environ | {"XDG_RUNTIME_DIR": str(folder)}  # beside another run of this user
        command += ["--directory", str(folder / "out")]
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=own)
    try:
        yield _wait_told(folder / "demo.log", process)
    finally:
        process.terminate()
        process.wait(60)


def _wait_told(log: Path, process: "subprocess.Popen[bytes]") -> tuple[str, str]:
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s and process.poll() is None:
        if found := _TOLD.search(log.read_text(errors="replace")):
            return found[1], found[2]
        time.sleep(0.5)  # a wait for another process, bounded above
    raise TimeoutError(
        f"the demo tells no page within {READY_S:g} s: {log.read_text(errors='replace')[-500:]}"
    )


def open_page(browser: Browser, url: str, size: str, theme: str) -> Page:
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector(".shot", timeout=60_000)
    page.wait_for_selector(".tile", timeout=60_000)  # the plots have been sent
    page.wait_for_timeout(6000)  # and are drawn a moment later
    return page


def take(browser: Browser, url: str, token: str, out: Path) -> None:
    """Every picture of the documents."""
    for theme in ("light", "dark"):
        page = open_page(browser, url, "projector", theme)
        page.screenshot(path=out / f"dashboard-{theme}.png")
        page.click("[role=tab] >> nth=1")
        page.wait_for_timeout(4000)
        page.screenshot(path=out / f"dashboard-spectra-{theme}.png")
        page.close()
    page = open_page(browser, url, "laptop", "light")
    page.screenshot(path=out / "dashboard-laptop.png")
    _detail(page, out)
    _steering(page, token, out)
    page.close()


def _detail(page: Page, out: Path) -> None:
    page.locator(".shot").nth(5).click()
    page.wait_for_selector("#detail-facts table")
    page.click("#explain")
    page.locator("#detail-said", has_text="looked for").wait_for(timeout=100_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=out / "dashboard-detail.png")
    page.click("#detail-close")


def _steering(page: Page, token: str, out: Path) -> None:
    page.click("#lock")
    page.fill("#token", token)
    page.click("#unlock-form button.main")
    page.wait_for_selector("body.unlocked")
    page.locator("[data-route=newton_rings] input[type=range]").fill("0.9")
    page.locator("[data-route=newton_rings] .keeps", has_text="would keep").wait_for()
    page.locator("#card-steering").screenshot(path=out / "dashboard-steering.png")


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, demo(Path(folder)) as (url, token):
        time.sleep(FILL_S)  # nothing is waited for: the longer the run, the fuller the plots
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            take(browser, url, token, out)
            browser.close()


if __name__ == "__main__":
    main()
