"""Who changed what: noted with time and value, whatever becomes of the file."""

import json
import os
import time
from pathlib import Path

import pytest

from streamer.journal import NEWEST, Journal


def test_entries_are_lines_of_a_file(tmp_path: Path) -> None:
    journal, before_s = Journal(tmp_path / "steering.jsonl"), time.time()
    journal.add(
        "dashboard", "s", {"change": {"store": False}}, before={"store": True}, after={"store": False}
    )
    journal.add(None, "s", {"bundle": "x\ny"}, refused="no bundle")
    lines = [json.loads(line) for line in (tmp_path / "steering.jsonl").read_text().splitlines()]
    assert lines == list(journal.newest)
    assert before_s - 0.01 <= lines[0]["at_s"] <= time.time() + 0.01
    assert lines[0]["by"] == "dashboard"
    assert lines[0]["after"] == {"store": False}
    assert (lines[1]["by"], lines[1]["refused"]) == ("unknown", "no bundle")


def test_a_file_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "missing" / "steering.jsonl")
    journal.add("command line", "s", {"change": {"store": False}}, after={})
    assert len(journal.newest) == 1
    assert "cannot be written" in caplog.text


def test_it_keeps_the_newest_in_memory() -> None:
    journal = Journal(None)
    for number in range(NEWEST + 5):
        journal.add("x" * 1000, "s", {"number": number})
    assert [entry["action"]["number"] for entry in journal.newest] == list(range(5, NEWEST + 5))
    assert len(journal.newest[0]["by"]) == 40


def test_a_link_is_not_followed_and_a_fifo_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "fifo"):
        Journal(tmp_path / name).add("dashboard", "s", {"store": False}, after={})
        assert f"{name} cannot be written" in caplog.text
    assert (tmp_path / "target").read_text() == ""
