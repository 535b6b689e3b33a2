"""The commands: help, one-line errors, exit codes, and the table at the end of a run."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from core_support import config_text
from rich.console import Console
from typer.testing import CliRunner

from streamer import cli, sockets
from streamer.errors import ConfigError

runner = CliRunner()


def streamer(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "streamer.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=cwd)


@pytest.mark.parametrize("command", ["run", "demo", "check", "status", "swap", "watch"])
def test_every_command_has_help(command: str) -> None:
    result = runner.invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize("command", ["simulate", "replay"])
def test_commands_that_pass_their_arguments_on_have_their_own_help(command: str) -> None:
    result = runner.invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0


def test_the_list_of_commands_is_the_promised_one() -> None:
    result = runner.invoke(cli.app, ["--help"])
    for command in ["demo", "run", "check", "simulate", "replay", "status", "swap", "watch", "train"]:
        assert re.search(rf"\b{command}\b", result.output), command


def test_a_configuration_error_is_one_line_on_stderr_and_exit_2(tmp_path: Path) -> None:
    result = streamer("check", "--offline", str(tmp_path / "no.toml"))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("error: cannot read the configuration")
    assert result.stdout == ""


def test_errors_of_the_stream_leave_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise ConfigError("[red]no[/] such thing")

    monkeypatch.setattr(cli, "app", refuse)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "error: [red]no[/] such thing" in capsys.readouterr().err, "what is between brackets is no markup"


def test_an_unknown_option_is_refused() -> None:
    assert runner.invoke(cli.app, ["run", "x.toml", "--speed", "3"]).exit_code == 2


@pytest.mark.parametrize("command", [["status"], ["swap", "s", "bundle"]])
def test_without_a_run_the_commands_that_ask_one_say_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    ask = sockets.ask

    def impatient(context: Any, endpoint: str, request: dict[str, Any], *_: Any) -> dict[str, Any]:
        return ask(context, endpoint, request, 0.05)

    monkeypatch.setattr(sockets, "ask", impatient)
    result = runner.invoke(cli.app, [*command, "--socket", f"ipc://{folder}/none"])
    assert isinstance(result.exception, ConfigError)
    assert "no running pipeline answers" in str(result.exception)


def test_check_offline_says_what_would_be_done(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(config_text(routes='[[stream.route]]\nname = "a"\nwhen = "pulse_id > 3"'))
    result = runner.invoke(cli.app, ["check", "--offline", str(path)])
    assert result.exit_code == 0, result.output
    assert '"stream": "s"' in result.output


def test_check_refuses_a_rule_that_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(config_text(routes='[[stream.route]]\nname = "a"\nwhen = "nothing > 3"'))
    result = runner.invoke(cli.app, ["check", "--offline", str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "nothing" in str(result.exception)


def report(closed: bool) -> dict[str, Any]:
    def stream(received: int, kept: dict[str, int], **more: Any) -> dict[str, Any]:
        plain = {"vetoed": 0, "in_flight": 0, "missing_upstream": 0, "duplicates": 0, "out_of_order": 0}
        groups = {"failopen": {}, "shed": {}, "rejected": {}}
        latency = {"verdict_latency_s": {"p50": None, "p99": None}}
        rates = {"messages": 3, "events_per_s": 12.25}
        return {"received": received, "kept": kept} | plain | groups | latency | rates | more

    return {
        "closed": closed,
        "streams": {
            "a": stream(12345, {"streaks": 5}, shed={"disk_full": 2}, rejected={"bad_header": 1}),
            "b": stream(7, {"all": 7}, verdict_latency_s={"p50": 0.0012, "p99": 0.25}),
        },
    }


def rendered(value: dict[str, Any]) -> str:
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        console.print(cli.ledger_table(value))
    return captured.get()


def test_the_ledger_shows_every_count_of_every_stream() -> None:
    rows = {
        cells[0]: cells[1:]
        for text in rendered(report(True)).splitlines()
        if len(cells := [cell.strip() for cell in re.split(r"[│┃]", text)[1:-1]]) == 3
    }
    assert rows["received"] == ["12,345", "7"]
    assert rows["kept: streaks"] == ["5", ""]
    assert rows["kept: all"] == ["", "7"]
    assert rows["shed: disk_full"] == ["2", ""]
    assert rows["rejected: bad_header"] == ["1", ""]
    assert rows["verdict latency p50"] == ["-", "1.2 ms"]
    assert "e+" not in rows["verdict latency p99"][1]
    assert rows["verdict latency p99"][1].startswith("250")
    assert rows["events/s"][0].startswith("12.2")


@pytest.mark.parametrize(("closed", "code", "text"), [(True, 0, "closes"), (False, 1, "does NOT close")])
def test_the_exit_code_says_whether_the_ledger_closes(
    closed: bool, code: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=200, force_terminal=False)
    monkeypatch.setattr(cli, "console", console)
    with console.capture() as captured, pytest.raises(typer.Exit) as left:
        cli.finish(report(closed))
    assert left.value.exit_code == code
    assert text in captured.get()


def test_a_report_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(config_text())
    result = runner.invoke(cli.app, ["run", str(path), "--report", str(tmp_path / "no" / "report.json")])
    assert isinstance(result.exception, ConfigError)
