"""What the Grafana boards show: every panel with its queries and what a reader must know.

The metrics are declared in streamer/metrics.py, the ratios in deploy/prometheus/rules. How a panel
becomes JSON is `boards`'.
"""

from board_form import BLUE, GREEN, ORANGE, RED, Panel, S, by, quantile, stat

GOOD_ZERO = ((GREEN, None), (RED, 1))

OPERATOR = (
    stat("Events a second", "Events received.", f"stream:streamer_events:rate1m{S}", "ops"),
    stat(
        "Hit rate",
        "Kept by a rule (random samples are no hits), of those a model answered.",
        f"stream:streamer_hits:ratio_rate1m{S}",
        "percentunit",
    ),
    stat(
        "Verdict p99",
        "One verdict in a hundred takes longer, from its last byte to the socket.",
        f"stream:streamer_verdict_latency_seconds:p99_1m{S}",
        "s",
    ),
    stat(
        "Source silent for",
        "Since the newest events came.",
        f"streamer_source_silence_seconds{S}",
        "s",
        (GREEN, None),
        (ORANGE, 3),
        (RED, 10),
    ),
    stat(
        "Ledger",
        "Must be 0: otherwise events are lost or counted twice.",
        f"abs(streamer_ledger_imbalance{S})",
        "short",
        *GOOD_ZERO,
    ),
    stat(
        "Kept unclassified (failopen)",
        "Part of the events that no model answered in time; they are stored.",
        f"stream:streamer_failopen:ratio_rate1m{S}",
        "percentunit",
        (GREEN, None),
        (ORANGE, 0.01),
        (RED, 0.05),
    ),
    stat(
        "Came of those promised",
        "Received, of the events that the train ids promise.",
        f"stream:streamer_matching:ratio_rate5m{S}",
        "percentunit",
        (RED, None),
        (ORANGE, 0.95),
        (GREEN, 0.999),
    ),
    stat(
        "Stages running",
        "Three processes serve a stream.",
        f"sum by (stream) (streamer_stage_up{S})",
        "short",
        (RED, None),
        (GREEN, 3),
    ),
    Panel(
        "Verdicts",
        "What became of the events.",
        ((by("streamer_verdicts_total", "verdict"), "{{stream}} {{verdict}}"),),
        "ops",
        stacked=True,
    ),
    Panel(
        "Hit rate",
        "Kept by a rule (random samples are no hits), of those a model answered.",
        ((f"stream:streamer_hits:ratio_rate1m{S}", "{{stream}}"),),
        "percentunit",
    ),
    Panel(
        "Kept by route",
        "Which rule kept them.",
        ((by("streamer_events_kept_total", "route"), "{{stream}} {{route}}"),),
        "ops",
    ),
    Panel(
        "Disk",
        "Free space of the output, and the part of it that is never used.",
        (("streamer_disk_free_bytes", "free"), ("streamer_disk_reserve_bytes", "reserve")),
        "bytes",
    ),
    stat(
        "Storing",
        "1 while kept events are written to files.",
        f"streamer_storing{S}",
        "short",
        (ORANGE, None),
        (GREEN, 1),
    ),
    stat(
        "Disk lasts for",
        "At the present rate, until the reserve is reached. Empty: nothing is written.",
        "(streamer_disk_free_bytes - streamer_disk_reserve_bytes)"
        " / (job:streamer_disk_use_bytes:rate10m > 0)",
        "s",
        (RED, None),
        (ORANGE, 600),
        (GREEN, 3600),
    ),
    Panel(
        "Run",
        "Number of the run and of the proposal.",
        (("streamer_run_info", "run {{run}}, proposal {{proposal}}"),),
        "short",
        "stat",
        width=6,
    ),
    Panel(
        "Program",
        "Its version.",
        (("streamer_build_info", "{{version}}, Python {{python}}"),),
        "short",
        "stat",
        width=6,
    ),
)

LATENCY = (
    Panel(
        "Verdict latency",
        "From an event's last byte to its verdict on the socket; good to 25 %.",
        (
            (quantile(0.5), "{{stream}} p50"),
            (quantile(0.99), "{{stream}} p99"),
            (quantile(0.999), "{{stream}} p99.9"),
        ),
        "s",
    ),
    Panel(
        "Latency and deadline",
        "What waits longer than the deadline for the device is kept unclassified. A deadline of 0 is none.",
        (
            (f"stream:streamer_verdict_latency_seconds:p50_1m{S}", "{{stream}} p50"),
            (f"stream:streamer_verdict_latency_seconds:p99_1m{S}", "{{stream}} p99"),
            (f"streamer_deadline_seconds{S}", "{{stream}} deadline"),
        ),
        "s",
    ),
    Panel(
        "Distribution of the latency",
        "Events a second in each bucket.",
        ((f"sum by (le) (rate(streamer_verdict_latency_seconds_bucket{S}[$__rate_interval]))", "{{le}}"),),
        "ops",
        "heatmap",
    ),
    Panel(
        "Ring",
        "Full: inference or the sink cannot follow.",
        ((f"stream:streamer_ring_in_use:ratio{S}", "{{stream}}"),),
        "percentunit",
        steps=((BLUE, None), (ORANGE, 0.5), (RED, 0.8)),
    ),
    Panel(
        "Ring memory",
        "Used and there.",
        (
            (f"streamer_ring_bytes_in_use{S}", "{{stream}} used"),
            (f"streamer_ring_limit_bytes{S}", "{{stream}} all"),
        ),
        "bytes",
    ),
    Panel(
        "Ring slots",
        "Used and there.",
        (
            (f"streamer_ring_slots_in_use{S}", "{{stream}} used"),
            (f"streamer_ring_slots{S}", "{{stream}} all"),
        ),
    ),
    Panel(
        "In flight",
        "Events received that have no outcome yet.",
        ((f"streamer_events_in_flight{S}", "{{stream}}"),),
    ),
    Panel(
        "Sign of work",
        "Age of the last one of each stage. At 30 s it is killed and started again.",
        ((f"streamer_progress_age_seconds{S}", "{{stream}} {{stage}}"),),
        "s",
    ),
)

ACCOUNTING = (
    stat(
        "Ledger",
        "Must be 0: otherwise events are lost or counted twice.",
        f"abs(streamer_ledger_imbalance{S})",
        "short",
        *GOOD_ZERO,
    ),
    stat(
        "Shed",
        "Events of this run whose data are gone.",
        f"sum by (stream) (streamer_events_shed_total{S})",
        "short",
        *GOOD_ZERO,
    ),
    stat(
        "Missing upstream",
        "Events of this run lost before us.",
        f"streamer_events_missing_upstream_total{S}",
        "short",
        (GREEN, None),
        (ORANGE, 1),
    ),
    stat(
        "Refused by the files",
        "Appends and closings of this run that failed.",
        f"streamer_store_errors_total{S}",
        "short",
        *GOOD_ZERO,
    ),
    Panel(
        "Received",
        "Into the ring, or shed there.",
        ((by("streamer_events_received_total"), "{{stream}}"),),
        "ops",
    ),
    Panel(
        "Outcomes",
        "Every event gets one: kept, kept unclassified (failopen), vetoed.",
        ((by("streamer_verdicts_total", "verdict"), "{{stream}} {{verdict}}"),),
        "ops",
        stacked=True,
    ),
    Panel(
        "Kept unclassified (failopen), by reason",
        "timeout and overload: too slow. The others: a broken model or device.",
        ((by("streamer_events_failopen_total", "reason"), "{{stream}} {{reason}}"),),
        "ops",
    ),
    Panel(
        "Shed, by reason",
        "The data are gone.",
        ((by("streamer_events_shed_total", "reason"), "{{stream}} {{reason}}"),),
        "ops",
    ),
    Panel(
        "Rejected messages, by reason",
        "They could not be used.",
        ((by("streamer_messages_rejected_total", "reason"), "{{stream}} {{reason}}"),),
        "ops",
    ),
    Panel(
        "Lost before us",
        "From gaps in the train ids.",
        (
            (by("streamer_events_missing_upstream_total"), "{{stream}} events"),
            (by("streamer_trains_missing_upstream_total"), "{{stream}} trains"),
        ),
        "ops",
    ),
    Panel(
        "Ids",
        "Events that came again, events of a train older than one before, jumps too large to be losses.",
        (
            (by("streamer_ids_duplicate_total"), "{{stream}} again"),
            (by("streamer_ids_out_of_order_total"), "{{stream}} late"),
            (by("streamer_ids_jump_total"), "{{stream}} jumps"),
        ),
        "ops",
    ),
    Panel("Messages", "Taken from the source.", ((by("streamer_messages_total"), "{{stream}}"),), "ops"),
    Panel(
        "Trains",
        "All, and those without an event of this stream.",
        (
            (by("streamer_trains_total"), "{{stream}} all"),
            (by("streamer_trains_empty_total"), "{{stream}} empty"),
        ),
        "ops",
    ),
    Panel("Bytes", "Of all messages.", ((by("streamer_bytes_received_total"), "{{stream}}"),), "Bps"),
    Panel(
        "Kept and not in a file",
        "While storing was off; and results that no file could take.",
        (
            (by("streamer_events_not_stored_total"), "{{stream}} storing off"),
            (by("streamer_results_unrecorded_total"), "{{stream}} results unrecorded"),
        ),
        "ops",
    ),
    Panel(
        "Connections lost",
        "To the source, in each 5 minutes.",
        ((f"increase(streamer_source_reconnects_total{S}[5m])", "{{stream}}"),),
    ),
)

DEVICE = (
    Panel(
        "Device busy",
        "Part of the time in which a batch is under way. Batches overlap: it may exceed 1.",
        ((f"stream:streamer_device_busy:ratio_rate1m{S}", "{{stream}}"),),
        "percentunit",
    ),
    Panel(
        "Answered",
        "Events whose verdict inference has sent.",
        ((by("streamer_events_classified_total"), "{{stream}}"),),
        "ops",
    ),
    Panel("Batches", "Given to the device.", ((by("streamer_batches_total"), "{{stream}}"),), "ops"),
    Panel(
        "Events in a batch",
        "Mean, and the size that nine of ten do not exceed.",
        (
            (
                f"{by('streamer_batch_events_sum')} / ({by('streamer_batch_events_count')} > 0)",
                "{{stream}} mean",
            ),
            (f"histogram_quantile(0.9, {by('streamer_batch_events_bucket', 'le')})", "{{stream}} p90"),
        ),
    ),
    Panel(
        "Batches that failed",
        "Their events are kept unclassified (failopen).",
        ((f"increase(streamer_model_errors_total{S}[5m])", "{{stream}}"),),
    ),
    Panel(
        "Changes",
        "Bundles exchanged and rules turned, in each 5 minutes.",
        (
            (f"increase(streamer_model_swaps_total{S}[5m])", "{{stream}} swaps"),
            (f"increase(streamer_model_swaps_refused_total{S}[5m])", "{{stream}} refused"),
            (f"increase(streamer_steerings_total{S}[5m])", "{{stream}} steerings"),
        ),
    ),
    Panel(
        "Processor",
        "Cores that each stage uses.",
        ((by("streamer_stage_cpu_seconds_total", "stage"), "{{stream}} {{stage}}"),),
    ),
    Panel(
        "Own memory",
        "Of each stage, without the ring. Flat, a minute after the start.",
        ((f"streamer_stage_private_bytes{S}", "{{stream}} {{stage}}"),),
        "bytes",
    ),
    Panel(
        "Resident memory",
        "With what each stage touched of the ring, which all of them share.",
        ((f"streamer_stage_resident_bytes{S}", "{{stream}} {{stage}}"),),
        "bytes",
    ),
    Panel(
        "Starts of a stage after its first",
        "In each 10 minutes.",
        ((f"increase(streamer_stage_restarts_total{S}[10m])", "{{stream}} {{stage}}"),),
    ),
    Panel(
        "Age of the process",
        "Since its start.",
        ((f"time() - (streamer_stage_start_time_seconds{S} > 0)", "{{stream}} {{stage}}"),),
        "s",
    ),
    Panel(
        "Bundles",
        "That serve now.",
        ((f"streamer_model_info{S}", "{{stream}}: {{bundle}} {{sha256}}"),),
        "short",
        "stat",
    ),
)
