"""A real Prometheus, configured as shipped, scrapes a real run: rules are healthy, every query answers."""

import json
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from exported import BOARDS, ROOT, queries, recorded

sys.path.insert(0, str(ROOT / "tests" / "integration"))
from processes import Process, RunningPipeline, simulator, wait_until

from streamer.sockets import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="needs Prometheus: apt-get install prometheus"
    ),
]

# As `streamer.facility.simulator --kind noise` sends it.
STREAMS = """
[[stream]]
name = "noise"
[stream.source]
endpoint = "{endpoint}"
socket = "PULL"
source = "SIM_DET_NOISE/DET/CAM:output"
key = "image.data"
pulse_key = "image.pulseId"
axes = "pulse slow fast"
shape = [64, 64]
dtype = "uint16"
[stream.publish]
results = "tcp://127.0.0.1:{results}"
verdicts = "tcp://127.0.0.1:{verdicts}"
[[stream.route]]
name = "half"
when = "pulse_id % 2 == 0"
[[stream.route]]
name = "drawn"
one_in = 4
[metrics]
port = {metrics}
[output]
directory = "{directory}"
segment_bytes = 4194304
reserve_bytes = 0
"""


@dataclass(frozen=True)
class Asked:
    """A running Prometheus."""

    url: str
    pipeline: RunningPipeline

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer. Raises AssertionError with Prometheus' own words."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def value(self, query: str) -> float | None:
        """Of the only series there is."""
        found = self.get("query", query=query)["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def shipped(folder: Path, port: int) -> Path:
    """The configuration as it is shipped, with another target and a shorter interval."""
    source = ROOT / "deploy" / "prometheus"
    shutil.copytree(source / "rules", folder / "rules")
    text = (source / "prometheus.yml").read_text()
    for old, new in (
        ("streamer:9401", f"127.0.0.1:{port}"),
        ("interval: 5s", "interval: 1s"),
        ("timeout: 4s", "timeout: 1s"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text)
    return folder / "prometheus.yml"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """Prometheus has scraped a run under load for some seconds."""
    folder = tmp_path_factory.mktemp("p")
    metrics, port = free_port(), free_port()
    shape = ("--kind", "noise", "--shape", "64x64", "--bank", "16", "--pulses", "16", "--rate", "20")
    load = simulator(folder, *shape)
    ports = {"results": free_port(), "verdicts": free_port(), "metrics": metrics}
    text = STREAMS.format(endpoint=load.endpoint, directory=folder / "out", **ports)
    url = f"http://127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={shipped(folder, metrics)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with load.process, RunningPipeline(folder, text) as pipeline:
        pipeline.ready().wait_for("noise", lambda counts: counts["received"] > 100)
        with Process(command, folder / "prometheus.log"):
            wait_until(lambda: answers(url), "Prometheus ready")
            found = Asked(url, pipeline)
            wait_until(
                lambda: found.value("stream:streamer_hits:ratio_rate1m") is not None, "a recorded ratio"
            )
            time.sleep(3)  # three more scrapes and evaluations: rates and rules of rules have values then
            yield found


def test_the_target_is_up(asked: Asked) -> None:
    [target] = asked.get("targets")["activeTargets"]
    assert target["health"] == "up", target["lastError"]
    assert target["labels"]["job"] == "streamer"


def test_every_rule_is_loaded_and_healthy(asked: Asked) -> None:
    found = asked.rules()
    assert len(found) > len(recorded())
    assert {(rule["name"], rule["health"], rule.get("lastError")) for rule in found} == {
        (rule["name"], "ok", None) for rule in found
    }


def test_a_run_under_load_calls_nobody(asked: Asked) -> None:
    firing = [alert for alert in asked.get("alerts")["alerts"] if alert["state"] == "firing"]
    assert firing == []


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_every_query_of_a_board_answers(asked: Asked, board: Path) -> None:
    answered = {query: asked.get("query", query=query)["result"] for query in queries(board)}
    assert answered
    empty = {query for query, result in answered.items() if not result}
    # Nobody has claimed a file for a while: the disk lasts for ever. No bundle serves this stream.
    assert all("streamer_disk_use" in query or "streamer_model_info" in query for query in empty), empty


def test_the_recorded_numbers_are_those_of_the_run(asked: Asked) -> None:
    hits = asked.value("stream:streamer_hits:ratio_rate1m")
    assert hits is not None
    assert abs(hits - 0.5) < 0.06, "the even pulses; what is drawn of the others is no hit"
    assert asked.value("stream:streamer_matching:ratio_rate5m") == 1
    assert asked.value("stream:streamer_failopen:ratio_rate1m") == 0
    p50, p99 = (asked.value(f"stream:streamer_verdict_latency_seconds:{p}_1m") for p in ("p50", "p99"))
    assert p50 is not None
    assert p99 is not None
    assert 0 < p50 <= p99
    assert asked.value("stream:streamer_events:rate1m > 0") is not None
    rate = asked.value("rate(streamer_events_received_total[4s])")
    assert rate is not None
    assert 16 * 20 / 4 < rate < 16 * 20 * 4, "20 trains of 16 a second, on a loaded machine"


def test_the_counters_are_those_of_the_control_socket(asked: Asked) -> None:
    before = asked.pipeline.counts("noise")["received"]
    scraped = wait_until(lambda: asked.value("streamer_events_received_total > " + str(before)), "a scrape")
    assert scraped <= asked.pipeline.counts("noise")["received"]
    assert asked.value("streamer_ledger_imbalance") == 0
    assert asked.value('streamer_run_info{run="1"}') == 1


def test_each_stage_uses_what_the_kernel_says(asked: Asked) -> None:
    for stage, state in asked.pipeline.stages().items():
        query = f'streamer_stage_private_bytes{{stage="{stage.partition(".")[2]}"}}'
        told = asked.value(query)
        lines = Path(f"/proc/{state['pid']}/status").read_text().splitlines()
        [kernel] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
        assert told is not None
        assert abs(told - kernel) < 32 << 20, "a second apart, under load"
