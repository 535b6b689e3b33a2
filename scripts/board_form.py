"""What a panel of a board is, before it is JSON: queries, unit, thresholds, and the usual ones made short."""

from dataclasses import dataclass
from typing import Final

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
BLUE, ORANGE, RED, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
SKY, PURPLE = "#56B4E9", "#CC79A7"
S: Final = '{stream=~"$stream"}'


@dataclass(frozen=True)
class Panel:
    """One panel: its queries as (PromQL, legend), and what a reader must know."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    steps: tuple[tuple[str, float | None], ...] = ((BLUE, None),)
    """Colours from a value on; None is from below everything."""
    width: int = 12
    stacked: bool = False


def stat(title: str, description: str, query: str, unit: str, *steps: tuple[str, float | None]) -> Panel:
    """One number per stream, coloured by its thresholds."""
    return Panel(title, description, ((query, "{{stream}}"),), unit, "stat", steps or ((BLUE, None),), 6)


def by(metric: str, *labels: str, extra: str = "") -> str:
    """The rate of a counter, summed over all but the stream and `labels`."""
    where = f'{{stream=~"$stream"{extra}}}'
    return f"sum by ({', '.join(('stream', *labels))}) (rate({metric}{where}[$__rate_interval]))"


def quantile(q: float) -> str:
    buckets = by("streamer_verdict_latency_seconds_bucket", "le")
    return f"histogram_quantile({q}, {buckets})"
