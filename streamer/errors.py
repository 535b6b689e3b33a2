"""Every error of the stream, and the closed lists of reasons under which events are counted.

Exceptions say what the loop that meets them does:

    StreamerError
      ConfigError   refuse to start: a person must change something
      StageError    this process cannot go on: exit, the supervisor restarts it
      FrameError    this message is bad: drop it, count it under `reason`, go on
      StoreError    the files cannot take this block: count it, alarm, try again later
        DiskFullError   because there is no room

The reasons are closed lists because they become counters in shared memory and Prometheus labels.
"""

from typing import Final


class StreamerError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(StreamerError):
    """The configuration, a bundle or the machine does not allow a start."""


class StageError(StreamerError):
    """A stage cannot go on; its process exits and is started again."""


class StoreError(StreamerError):
    """The output files cannot take what they were given."""


class DiskFullError(StoreError):
    """There is no room for what they were given."""


class FrameError(StreamerError):
    """One message cannot be used.

    `reason` is one of REJECT_REASONS and becomes the counter; the text says where, expected and got.
    """

    def __init__(self, reason: str, message: str) -> None:
        if reason not in REJECT_REASONS:
            raise ValueError(f"unknown reject reason {reason!r}; add it to REJECT_REASONS")
        super().__init__(f"{reason}: {message}")
        self.reason = reason


# Exit codes of a stage (sysexits.h): started again; not started again before it was ready.
EXIT_RESTART: Final = 70
EXIT_CONFIG: Final = 78

# Why a whole message was refused.
REJECT_REASONS: Final = (
    "odd_frame_count",  # headers and payloads come in pairs
    "too_many_frames",
    "header_too_large",
    "bad_header",  # not msgpack, not a map, missing or mistyped fields
    "bad_payload",  # the property map is not msgpack or not a map
    "unknown_content",
    "pickle_refused",  # object arrays and pickled content can execute code
    "bad_dtype",
    "bad_shape",  # negative, too many axes, or too large
    "size_mismatch",  # payload bytes differ from shape x dtype
    "server_error",  # the server answered with an error text
    "train_id_missing",
    "train_id_mismatch",  # sources of one message disagree
    "pulse_ids_mismatch",  # number of pulse ids differs from number of frames
    "pulse_id_range",
    "shape_changed",  # contradicts the stream's configured event shape
    "dtype_changed",
    "key_missing",  # the source is there, its key is not
)

# Why an event was kept without a model's answer (fail-open).
FAILOPEN_REASONS: Final = ("timeout", "overload", "worker_lost", "nonfinite", "model_error")

# Why the data of a received event are gone.
SHED_REASONS: Final = ("ring_full", "disk_full", "store_error")

# Per-event flags, or-ed together in the column `flags`.
FLAG_MODULE_MISSING: Final = 1  # at least one detector module did not come; its pixels are 0
FLAG_ATTACH_MISSING: Final = 2  # an attached scalar did not come; its value is NaN
FLAG_OUT_OF_ORDER: Final = 4  # its train came after a later one
