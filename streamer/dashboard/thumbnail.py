"""A frame made small enough for a page: the mean of neighbouring pixels.

Owns sizes and layout of pictures, not their colours.
"""

from typing import Final

import numpy as np

from streamer.columns import Array

MAX_SIDE_PX: Final = 192  # a gallery shows it at that size or below
MAX_BINS: Final = 2048  # a spectrum: about one bin for each pixel of a screen


def thumbnail(frame: Array) -> Array:
    """A picture of one event [bins], [slow, fast] or [modules, slow, fast] (one module under the other).

    2-D with at most MAX_SIDE_PX a side, or 1-D with at most MAX_BINS: the frame itself if it is that small,
    else float32 means of equal bins, of which the last may be narrower. Raises ValueError for other shapes.
    """
    if not 1 <= frame.ndim <= 3 or not frame.size:
        raise ValueError(f"a picture of shape {frame.shape}: expected 1 to 3 axes, none empty")
    if frame.ndim == 3:
        frame = frame.reshape(-1, frame.shape[-1])
    most = MAX_BINS if frame.ndim == 1 else MAX_SIDE_PX
    for axis in range(frame.ndim):
        frame = _binned(frame, axis, -(-frame.shape[axis] // most))
    return frame


def _binned(frame: Array, axis: int, factor: int) -> Array:
    """Means of `factor` neighbours along an axis, as float32; what is not finite counts as 0."""
    if factor == 1:
        return frame
    starts = np.arange(0, frame.shape[axis], factor)
    widths = np.diff(np.append(starts, frame.shape[axis])).astype(np.float32)
    shape = [-1 if own == axis else 1 for own in range(frame.ndim)]
    finite = frame if frame.dtype.kind != "f" else np.nan_to_num(frame, posinf=0.0, neginf=0.0)
    sums = np.add.reduceat(finite, starts, axis=axis, dtype=np.float32)
    return sums / widths.reshape(shape)
