"""Karabo Bridge."""

from streamer.wire.karabo_bridge_encode import encode
from streamer.wire.types import Limits, SourceData, Train

__all__ = ["Limits", "SourceData", "Train", "encode"]
