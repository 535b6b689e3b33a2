"""An event's picture as a file for a browser: a frame as PNG, a spectrum as SVG.

Owns scale, colours and the handler that serves them. A picture's address names stream, train and pulse, so
that a browser keeps it and ten pages cost one transfer each, and the server nothing after the first.
"""

import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bokeh.palettes import Viridis256
from PIL import Image
from tornado.web import HTTPError

from streamer.dashboard.board import Board
from streamer.dashboard.server import Guarded
from streamer.dashboard.state import Shot

Picture = npt.NDArray[Any]

DARK: Final = 0.2  # most of a frame is background
BRIGHT: Final = 0.998  # quantile that is drawn brightest: single hot pixels must not darken the rest
POINTS: Final = 240  # of a drawn spectrum: twice its width in pixels
WIDTH, HEIGHT = 120, 90
KEEP_S: Final = 600  # a browser's copy; an event's picture never changes
_PALETTE: Final = [int(colour[i : i + 2], 16) for colour in Viridis256 for i in (1, 3, 5)]


def png(picture: Picture) -> bytes:
    """A frame [slow, fast] in logarithmic brightness, viridis; what is no number is darkest."""
    values = np.log1p(np.maximum(np.nan_to_num(picture.astype(np.float32), posinf=0.0), 0.0))
    low, top = (float(value) for value in np.quantile(values, (DARK, BRIGHT)))
    scaled = np.clip((values - low) / max(top - low, 1e-6), 0.0, 1.0)
    image = Image.fromarray((scaled * 255).astype(np.uint8), "P")
    image.putpalette(_PALETTE)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def svg(spectrum: Picture) -> bytes:
    """A spectrum [n] as one line, from its least to its largest value."""
    step = max(1, len(spectrum) // POINTS)
    cut = np.nan_to_num(spectrum[: len(spectrum) // step * step].astype(np.float32))
    high = cut.reshape(-1, step).max(1)  # the peaks are what one looks for
    low, top = float(high.min()), float(high.max())
    x = np.linspace(2, WIDTH - 2, len(high))
    y = HEIGHT - 4 - (high - low) / max(top - low, 1e-12) * (HEIGHT - 8)
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<polyline points="{line}" fill="none" stroke="#2a91d0" stroke-width="1.4"/></svg>'
    ).encode()


def drawn(shot: Shot) -> tuple[str, bytes]:
    """Media type and content."""
    if shot.picture.ndim == 1:
        return "image/svg+xml", svg(shot.picture)
    return "image/png", png(shot.picture)


class Pictures(Guarded):
    """`/shot/STREAM/TRAIN/PULSE`: a picture of the gallery, while it is there."""

    def initialize(self, board: Board) -> None:
        self._board = board

    def get(self, stream: str, train: str, pulse: str) -> None:
        state = self._board.feed.streams.get(stream)
        shot = state.gallery.of(int(train), int(pulse)) if state else None
        if shot is None:
            raise HTTPError(404, "the gallery has no such event any more")
        kind, content = drawn(shot)
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", f"private, max-age={KEEP_S}, immutable")
        self.write(content)
