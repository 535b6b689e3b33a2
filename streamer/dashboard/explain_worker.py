"""The process that a page's Grad-CAM++ runs in: questions on stdin, maps on stdout.

Owns the network while it lives. Lowest priority, one thread; it ends when the pipe from the dashboard
does.
"""

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch

from models.bundle import Bundle, load_bundle
from models.gradcam import grad_cam_pp
from models.manifest import ModelError
from streamer.dashboard.frames import read_frame, write_frame

NICEST: Final = 19
CACHED: Final = 2  # bundles held; a stream has one or two with classes


@lru_cache(CACHED)
def bundle_at(folder: str) -> Bundle:
    return load_bundle(Path(folder))


def answer(question: dict[str, Any], raw: Any) -> tuple[dict[str, Any], Any]:
    """The map of a question, float32 of the shape of the frame; or {'error'}."""
    try:
        bundle = bundle_at(str(question["bundle"]))
        labels = next(column.labels for column in bundle.manifest.columns if column.name == "p")
        x = bundle.preprocess(torch.from_numpy(raw.copy())[None])
        heat = grad_cam_pp(bundle.network, x, labels.index(question["class"]))[0]
        return {"bundle": bundle.manifest.name}, _as_large(heat, raw.shape).numpy()
    except (ModelError, ValueError, StopIteration, KeyError) as error:
        return {"error": f"Grad-CAM++ is not possible here: {error}"}, None


def _as_large(heat: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The map on the raw frame's pixels: preprocessing may bin or crop. Modules share one map."""
    size = shape[-heat.ndim :]
    if tuple(heat.shape) == size:
        return heat.float()
    mode = "bilinear" if heat.ndim == 2 else "linear"
    return torch.nn.functional.interpolate(heat[None, None].float(), size=size, mode=mode)[0, 0]


def main() -> None:
    os.nice(NICEST)
    torch.set_num_threads(1)
    # What libraries print must not come between the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            question, raw = read_frame(sys.stdin.buffer)
        except EOFError:
            return
        write_frame(out, *answer(question, raw))


if __name__ == "__main__":
    main()
