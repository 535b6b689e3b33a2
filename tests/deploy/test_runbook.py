"""The runbook against the program: quoted lines are printed, commands exist, alerts find their heading."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from streamer import metrics
from streamer.cli import app
from streamer.errors import FAILOPEN_REASONS, REJECT_REASONS, SHED_REASONS
from streamer.notify import PATIENCE_S
from streamer.supervisor import HUNG_S, STOP_S

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / f"docs/{name}.md").read_text() for name in ("runbook", "deployment")}
TEXT = PAGES["runbook"]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group of click
HEADINGS = [line.lstrip("#").strip() for line in TEXT.splitlines() if line.startswith("## ")]
QUOTES = [line[2:] for line in TEXT.splitlines() if line.startswith("> ")]
ALERTS = (ROOT / "deploy/prometheus/rules/alerts.yml").read_text()
# The parts that alerts link to, as anchors.
NEEDED = sorted(set(re.findall(r"runbook_url: docs/runbook\.md#(\S+)", ALERTS)))
LINKED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A template of less text of its own would match nearly anything; one that begins with it, less so.
OWN_CHARS, FIRST_CHARS = 12, 10
PLACE = "\0"


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def template(node: ast.AST) -> str:
    """The text of a string in the source, with PLACE where a value comes; empty for what is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d+)?[sdfgr]", PLACE, node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) if isinstance(part, ast.Constant) else PLACE for part in node.values)
    return ""


@cache
def printed() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Every text of the program that says something by itself, as a pattern of what it may print."""
    files = [*(ROOT / "streamer").rglob("*.py"), *(ROOT / "models").glob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    texts = {re.sub(r"\[(/|bold red)\]", "", text) for node in nodes if (text := template(node))}
    return tuple(
        (text, re.compile(".+?".join(map(re.escape, text.split(PLACE))), re.DOTALL))
        for text in texts
        if len(text.replace(PLACE, "")) >= OWN_CHARS or len(text.partition(PLACE)[0]) >= FIRST_CHARS
    )


def is_printed(quote: str) -> bool:
    return any(pattern.fullmatch(quote.removeprefix("error: ")) for _, pattern in printed())


@pytest.mark.parametrize("quote", QUOTES)
def test_what_is_quoted_is_what_the_program_prints(quote: str) -> None:
    assert is_printed(quote)


def test_another_text_would_not_pass() -> None:
    assert QUOTES
    assert not is_printed("The ledger does NOT clause.")
    assert not is_printed("noise.sink gives no sign of life for 30 s: killed")


def test_every_alert_has_its_part() -> None:
    assert len(re.findall(r"^ *- alert:", ALERTS, re.MULTILINE)) == ALERTS.count(
        "runbook_url: docs/runbook.md#"
    )
    assert set(NEEDED) <= set(map(anchor, HEADINGS))


def test_every_part_says_what_to_do_and_what_is_lost() -> None:
    parts = dict(zip(map(anchor, HEADINGS), re.split(r"^## .*$", TEXT, flags=re.MULTILINE)[1:], strict=True))
    for needed in NEEDED:
        assert re.search(r"\*Do[.*]", parts[needed]), needed
        assert "*Lost*" in parts[needed], needed


def anchors(page: Path) -> set[str]:
    return {anchor(text) for text in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    for target, name in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        if target.startswith("http"):
            continue
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not name or name in anchors(found), f"{target}#{name}"


def commands(page: str) -> list[list[str]]:
    """Every `streamer ...` in the page, as words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()]
    inline = re.findall(
        r"`(streamer [^`]+)`", re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.M)
    )
    return [line.split() for line in [*lines, *inline] if line.startswith("streamer ")]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    assert commands(page)
    for _, name, *words in commands(page):
        command = COMMANDS[name]
        if command.context_settings.get("ignore_unknown_options"):
            continue  # passed on to a parser of its own
        options = {option for p in command.params for option in (*p.opts, *p.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, [name, *words]


def test_words_of_the_ledger_are_its_words() -> None:
    named = set(re.findall(r"`(?:shed|failopen|rejected): (\w+)`", TEXT))
    named |= set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    assert named
    assert named <= {*FAILOPEN_REASONS, *SHED_REASONS, *REJECT_REASONS}
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == set(FAILOPEN_REASONS)


def test_metrics_that_are_named_are_exported() -> None:
    exported = {name.removeprefix(metrics.PREFIX) for name in metrics.names()}
    assert set(re.findall(r"`(\w+_total)`", TEXT)) <= exported


def test_the_times_are_the_program_s() -> None:
    assert f"within {PATIENCE_S:.0f} s" in TEXT
    assert f"for {HUNG_S:.0f} s: killed" in TEXT
    assert f"within {STOP_S:.0f} s: killed" in TEXT
    assert f"at\nmost {3 * STOP_S:.0f}: three tiers of {STOP_S:.0f} s" in TEXT
