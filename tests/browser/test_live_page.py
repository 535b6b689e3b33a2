"""The live page in a real browser on a real pipeline: what a scientist does with it, and what nobody may."""

import os
import signal

import pytest
from conftest import Live, Opened, ledger_row, number, wait
from playwright.sync_api import Browser, Page, expect
from processes import wait_until

ROUND = "[data-route=round]"
# Points of the scatter, as the page's own copy of the data holds them.
POINTS = '() => Bokeh.documents[0].get_model_by_name("droplets/points").get_column("x").length'


def unlock(page: Page, token: str) -> None:
    page.click("#lock")
    page.fill("#token", token)
    page.click("#unlock-form button.main")


def test_the_page_shows_a_stream_that_moves(page: Page, opened: Opened) -> None:
    expect(page.locator("#state")).to_have_text("running")
    expect(page.locator("#closes")).to_have_text("✓ ledger closes")
    expect(page.locator("#storing")).to_have_text("● storing")
    received = ledger_row(page, "received")
    expect(received).to_be_visible()
    first = number(received)
    wait(page, lambda: number(received) > first, "the ledger moves")
    wait(page, lambda: page.evaluate(POINTS) > 20, "the scatter fills")
    assert page.locator(".plot:visible canvas").count() >= 6
    assert (opened.errors, opened.foreign) == ([], []), "an error on the page, or a request to another host"


def test_a_click_opens_a_frame(page: Page, opened: Opened) -> None:
    shot = page.locator(".shot").first
    shot.wait_for()
    picture = shot.locator("img")
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") == 128
    shot.click()
    facts = page.locator("#detail-facts")
    expect(facts).to_contain_text("Probabilities")
    expect(facts).to_contain_text("train")
    expect(page.locator("#detail canvas").first).to_be_visible()
    page.click("#explain")
    expect(page.locator("#detail-said")).to_contain_text("Where droplet_cnn looked for", timeout=100_000)
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    assert (opened.errors, opened.foreign) == ([], [])


def test_a_wrong_token_is_refused_and_the_right_one_unlocks(page: Page, live: Live) -> None:
    apply = page.locator(f"{ROUND} button.main")
    unlock(page, "not the token")
    expect(page.locator("#unlock-said")).to_contain_text("not the token")
    expect(apply).to_be_disabled()
    page.wait_for_timeout(1100)  # the next guess is not looked at earlier
    page.fill("#token", live.token)
    page.click("#unlock-form button.main")
    expect(page.locator("#about-steering")).to_contain_text("Unlocked")
    page.click("#lock")
    expect(page.locator("#about-steering")).to_contain_text("Read only")


def test_a_slider_changes_the_route_in_the_running_pipeline(page: Page, live: Live) -> None:
    slider = page.locator(f"{ROUND} input[type=range]")
    slider.fill("0.99")
    expect(page.locator(f"{ROUND} .keeps")).to_contain_text("would keep")  # locked: looking is allowed
    page.wait_for_timeout(1100)  # another test's wrong token may still be waited for
    unlock(page, live.token)
    expect(page.locator("#about-steering")).to_contain_text("Unlocked")
    page.locator(f"{ROUND} input[type=number]").fill("0.9999")
    page.click(f"{ROUND} button.main")
    expect(page.locator("#said")).to_contain_text("Done: route round keeps p.Round > 0.9999")
    assert rule(live) == "p.Round > 0.9999"
    kept = ledger_row(page, "kept: round")
    page.wait_for_timeout(2500)  # what was in flight, and the tick of the page
    before, received = number(kept), number(ledger_row(page, "received"))
    wait(page, lambda: number(ledger_row(page, "received")) > received + 50, "more events")
    assert number(kept) == before, "the route keeps what its rule no longer wants"
    expect(page.locator("#journal")).to_contain_text("p.Round > 0.9999")
    page.locator(f"{ROUND} input[type=number]").fill("0.01")
    page.click(f"{ROUND} button.main")
    wait(page, lambda: number(kept) > before, "the route keeps again")


def rule(live: Live) -> str:
    routes = live.pipeline.status()["steering"]["droplets"]["routes"]
    return str(next(route["when"] for route in routes if route["name"] == "round"))


@pytest.mark.parametrize(
    "question",
    [
        '{"number": 9, "do": "store", "store": false, "stream": "droplets"}',
        '{"number": 9, "do": "route", "route": "round", "values": {"0": 0.7}, "stream": "droplets"}',
        '{"number": 9, "do": "swap", "bundle": "droplet_cnn", "stream": "droplets"}',
        '{"number": 9, "do": "cluster", "name": "x", "of": 1, "stream": "droplets"}',
    ],
)
def test_a_locked_page_steers_nothing_whatever_its_script_sends(
    page: Page, live: Live, question: str
) -> None:
    before = live.pipeline.status()["steering"]
    page.evaluate("(question) => { page.mail.ask = question; }", question)
    wait(page, lambda: "locked" in page.evaluate("() => page.mail.answer"), "a refusal")
    assert live.pipeline.status()["steering"] == before


def test_another_site_cannot_open_the_websocket_nor_frame_the_page(browser: Browser, live: Live) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.route(
        "http://evil.example/", lambda route: route.fulfill(body="<p>evil</p>", content_type="text/html")
    )
    page.goto("http://evil.example/")
    opened = page.evaluate(
        """(url) => new Promise((done) => {
            const socket = new WebSocket(url, ["bokeh", "x"]);
            socket.onopen = () => done("open");
            socket.onerror = () => done("refused");
        })""",
        f"ws://127.0.0.1:{live.port}/ws",
    )
    assert opened == "refused"
    context.close()


def test_tabs_theme_and_tools_are_reached_by_keyboard(page: Page) -> None:
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    assert {"lock", "theme", "tab-0", "colour-by"} <= reached
    before = page.evaluate("() => document.documentElement.dataset.theme")
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.documentElement.dataset.theme") != before


def test_a_killed_dashboard_changes_nothing_else_and_comes_back(page: Page, live: Live) -> None:
    before, counts = live.pipeline.status(), live.pipeline.counts("droplets")
    with page.expect_event("load", timeout=60_000):  # it loads itself again
        os.kill(before["dashboard"]["pid"], signal.SIGKILL)
    live.pipeline.wait_for("droplets", lambda now: now["received"] > counts["received"] + 20)
    wait_until(lambda: back(live, before["dashboard"]["pid"]), "the dashboard is back")
    page.wait_for_selector("body[data-ready=yes]")
    expect(page.locator("#state")).to_have_text("running")
    after = live.pipeline.status()
    assert after["stages"] == before["stages"]
    assert after["streams"]["droplets"]["imbalance"] == 0


def back(live: Live, killed: int) -> bool:
    state = live.pipeline.status()["dashboard"]
    return bool(state["up"] and state["pid"] != killed)
