"""The commands. Thin: each reads its arguments and calls one function of another module.

Exit codes: 0 the ledger closed; 1 it did not, or the run failed; 2 the command or the configuration is wrong.
"""

import json
import logging
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from streamer import check as checking
from streamer import control, foreground, log, status_view, steering, watch
from streamer import demo as demonstration
from streamer.config import load, numbered, runtime_folder
from streamer.errors import ConfigError, StreamerError
from streamer.facility import replay, simulator
from streamer.pipeline import Pipeline, resolve
from streamer.plan import describe

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console()
BY = "command line"  # in the journal
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

ConfigFile = Annotated[Path, typer.Argument(help="The configuration, a TOML file.")]
Report = Annotated[Path | None, typer.Option(help="Write the ledger and the rates here, as JSON.")]
Control = Annotated[str, typer.Option(help="Control socket of the run, if it is not the default one.")]


@app.command()
def run(
    config: ConfigFile,
    duration: Annotated[float | None, typer.Option(help="Stop after this many seconds.")] = None,
    events: Annotated[int | None, typer.Option(help="Stop after this many events.")] = None,
    report: Report = None,
    next_run: Annotated[
        bool, typer.Option("--next-run", help="Number the run after those in its directory; for services.")
    ] = False,
) -> None:
    """Classify the streams of CONFIG until interrupted; print the ledger."""
    log.setup("streamer")
    writable(report)
    resolved = load(config)
    if next_run:
        resolved = numbered(resolved)
    logging.getLogger("streamer").info("configuration: %s", resolved.model_dump_json())
    result = foreground.run(Pipeline(resolved), foreground.Limits(duration, events), report)
    finish(result)


@app.command()
def demo(
    duration: Annotated[float, typer.Option(help="Seconds to run; 0 until interrupted.")] = 60.0,
    report: Report = None,
    directory: Annotated[Path, typer.Option(help="Where the kept events go.")] = Path("out/demo"),
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the live page.")] = False,
    socket: Control = "",
) -> None:
    """Simulated beamline, whole pipeline, live page; needs no configuration."""
    writable(report)
    show = demonstration.prepare(directory, socket)
    control.check_free(show.config.control_endpoint)
    folder = Path(tempfile.mkdtemp(prefix="streamer-demo-"))
    stopped = threading.Event()
    view = threading.Thread(target=watch.watch, args=(show.results,), kwargs={"stop": stopped}, daemon=True)
    with ExitStack() as stack:
        status = stack.enter_context(console.status("Simulating nanodroplets and diffractograms ..."))
        lines = stack.enter_context((folder / "pipeline.log").open("wb"))
        stack.enter_context(demonstration.Simulators(show.simulators, folder)).wait_ready()
        status.update("Starting ingest, inference and sink of two streams ...")

        pipeline = Pipeline(show.config, lines)

        def on_start() -> None:
            status.stop()
            if pipeline.dashboard is not None:
                page = str(pipeline.page_address())
                console.print(f"Live page: {page}   To steer: {pipeline.token}", soft_wrap=True)
                demonstration.show(page, pipeline.dashboard, open_browser=not no_browser)
            view.start()

        stack.callback(_end_view, view, stopped)
        result = foreground.run(pipeline, foreground.Limits(duration or None), report, on_start)
    console.print(f"Kept events: {directory.resolve()}/r{show.config.run:04d}   Logs: {folder}")
    finish(result)


def _end_view(view: threading.Thread, stopped: threading.Event) -> None:
    stopped.set()
    if view.is_alive():
        view.join(timeout=5)


@app.command()
def check(
    config: ConfigFile,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the first message.")] = 5.0,
    offline: Annotated[bool, typer.Option("--offline", help="Only the file, not the sources.")] = False,
) -> None:
    """Validate CONFIG, look at the first message of every source, say what a run would do with it."""
    resolved = load(config)
    for stream in resolved.stream:
        with tempfile.TemporaryDirectory() as folder:
            spec = resolve(resolved, stream, -1, Path(folder))
        console.print_json(json.dumps(describe(spec)))
    if offline:
        return
    looks = [checking.look(stream, timeout) for stream in resolved.stream]
    for table, _, text in looks:
        if table is not None:
            console.print(table)
        console.print(text, markup=False, highlight=False)
    raise typer.Exit(0 if all(usable for _, usable, _ in looks) else 2)


@app.command(context_settings=PASS_ON)
def simulate(context: typer.Context) -> None:
    """Serve simulated trains (`streamer simulate --help`)."""
    raise typer.Exit(simulator.main(context.args))


@app.command("replay", context_settings=PASS_ON)
def replay_files(context: typer.Context) -> None:
    """Serve recorded trains (`streamer replay --help`)."""
    raise typer.Exit(replay.main(context.args))


@app.command()
def status(
    socket: Control = "",
    once: Annotated[bool, typer.Option("--once", help="Print it and end, on a terminal as well.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """The ledger, rates and stages of the running pipeline: live on a terminal, once into a pipe."""
    if not as_json:
        status_view.show(_control(socket), console, once)
        return
    answer = control.request(_control(socket), {"command": "status"})
    console.print_json(json.dumps(answer["report"]))


@app.command()
def swap(
    stream: Annotated[str, typer.Argument(help="Name of the stream.")],
    bundle: Annotated[str, typer.Argument(help="Shipped bundle, or a folder.")],
    socket: Control = "",
) -> None:
    """Give a stream another bundle of the same input and columns, without a gap."""
    path = str(Path(bundle).resolve()) if Path(bundle).is_dir() else bundle
    command = {"command": "swap", "stream": stream, "bundle": path, "by": BY}
    answer = control.request(_control(socket), command, control.PATIENCE_S)
    console.print_json(json.dumps({"run": answer["run"], "bundles": answer["bundles"]}))


@app.command()
def steer(
    stream: Annotated[str, typer.Argument(help="Name of the stream.")],
    route: Annotated[str | None, typer.Option(help="Route to change.")] = None,
    when: Annotated[str | None, typer.Option(help="Its new rule.")] = None,
    one_in: Annotated[int | None, typer.Option(help="Keep one in so many; 0 keeps all.")] = None,
    enabled: Annotated[bool | None, typer.Option("--enable/--disable", help="Its switch.")] = None,
    cluster: Annotated[str | None, typer.Option(help="NAME=NUMBER names a cluster, NAME= forgets.")] = None,
    store: Annotated[bool | None, typer.Option("--store/--no-store", help="Write kept events.")] = None,
    socket: Control = "",
) -> None:
    """Change a rule, name a cluster, start or stop storing, while the stream runs."""
    changes = steering.asked(route, {"when": when, "one_in": one_in, "enabled": enabled}, cluster, store)
    command = {"command": "steer", "stream": stream, "changes": changes, "by": BY}
    answer = control.request(_control(socket), command, control.PATIENCE_S)
    console.print_json(json.dumps({"run": answer["run"]} | answer["steering"]))


@app.command()
def token(socket: Control = "") -> None:
    """The token with which the running pipeline's live page is unlocked."""
    path = control.token_file(_control(socket))
    try:
        console.print(path.read_text().strip(), markup=False, highlight=False)
    except OSError as error:
        raise ConfigError(
            f"no token at {path}: {error.strerror}. Is a run with a live page going on?"
        ) from error


@app.command("watch")
def watch_results(
    endpoint: Annotated[list[str], typer.Argument(help="Results endpoints, e.g. tcp://127.0.0.1:45450")],
    duration: Annotated[float | None, typer.Option(help="Seconds to watch.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
) -> None:
    """Show results live: a page on a terminal, a line per stream and second into a pipe."""
    watch.watch(endpoint, duration, stream=stream)


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Train a recipe into a bundle (`streamer train --help`)."""
    from models import train as training  # imports torch and the simulation: only when asked

    raise typer.Exit(training.main(context.args))


@app.command(context_settings=PASS_ON)
def evaluate(context: typer.Context) -> None:
    """Score a bundle on held-out or own events; a page and its numbers (`streamer evaluate --help`)."""
    from models import evaluate as evaluation

    raise typer.Exit(evaluation.main(context.args))


@app.command(context_settings=PASS_ON)
def explain(context: typer.Context) -> None:
    """Show why a bundle answers as it does (`streamer explain --help`)."""
    from models import explain as explanation

    raise typer.Exit(explanation.main(context.args))


@app.command(context_settings=PASS_ON)
def calibrate(context: typer.Context) -> None:
    """Choose a threshold that keeps a promised recall (`streamer calibrate --help`)."""
    from models import calibrate as calibration

    raise typer.Exit(calibration.main(context.args))


def _control(socket: str) -> str:
    return socket or f"ipc://{runtime_folder()}/control"


def writable(report: Path | None) -> None:
    """Find out before the run that its report cannot be written, not after. Raises ConfigError.

    Until the run has ended the file says that nothing closed, and not what an earlier run left in it.
    """
    try:
        if report is not None:
            report.write_text('{"closed": false}\n')
    except OSError as error:
        raise ConfigError(f"--report {report}: {error.strerror}; choose another file") from error


def finish(report: dict[str, Any]) -> None:
    """Print the ledger; exit 0 only if it closes."""
    console.print(ledger_table(report))
    for name, stream in report["streams"].items():
        if not stream["received"]:
            console.print(f"[bold red]Nothing was received for stream {name}.[/] See the warnings above.")
        if stream.get("store_errors"):
            console.print(f"[bold red]The files of stream {name} refused something.[/] See the errors above.")
    console.print("The ledger closes." if report["closed"] else "[bold red]The ledger does NOT close.[/]")
    raise typer.Exit(0 if report["closed"] else 1)


def ledger_table(report: dict[str, Any]) -> Table:
    """received = kept + failopen + vetoed + shed + in_flight, per stream."""
    table = Table(title="ledger")
    table.add_column("")
    for name in report["streams"]:
        table.add_column(name, justify="right")
    for label, value in _rows(report):
        table.add_row(label, *value)
    return table


def _rows(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    streams = list(report["streams"].values())
    rows: list[tuple[str, list[str]]] = [("received", [f"{s['received']:,}" for s in streams])]
    for group in ("kept", "failopen", "shed"):
        keys = sorted({key for s in streams for key in s[group]})
        rows += [(f"  {group}: {key}", [_count(s[group], key) for s in streams]) for key in keys]
    rows += [(f"  {key}", [f"{s[key]:,}" for s in streams]) for key in ("vetoed", "in_flight")]
    plain = ("missing_upstream", "duplicates", "out_of_order", "messages")
    rows += [(key, [f"{s[key]:,}" for s in streams]) for key in plain]
    reasons = sorted({key for s in streams for key in s["rejected"]})
    rows += [(f"  rejected: {key}", [_count(s["rejected"], key) for s in streams]) for key in reasons]
    rows += [("events/s", [f"{s['events_per_s']:,.1f}" for s in streams])]
    for q in ("p50", "p99"):
        rows += [(f"verdict latency {q}", [_ms(s["verdict_latency_s"][q]) for s in streams])]
    return rows


def _count(group: dict[str, int], key: str) -> str:
    return f"{group[key]:,}" if key in group else ""


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3g} ms"


def main() -> None:
    """Entry point: an error of ours is one line, not a traceback."""
    try:
        app()
    except StreamerError as error:
        lines = [log.printable(line) for line in str(error).splitlines()]
        Console(stderr=True).print("error: " + "\n".join(lines), style="red", markup=False, highlight=False)
        # A service is started again after a failure, and not after a mistake that would only be repeated.
        sys.exit(2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
