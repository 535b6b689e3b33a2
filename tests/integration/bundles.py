"""Small real bundles, saved as training saves them, for streams of the tests."""

from pathlib import Path

import torch

from models.bundle import save_bundle
from models.manifest import Column, Manifest
from models.networks.droplet_cnn import DropletCNN
from models.networks.ednn import EDNN
from models.preprocess import Preprocess

LATENT = 2
STEPS = {"steps": [{"op": "scale", "offset": 0.0, "factor": 1.0}]}


def _manifest(
    name: str, shape: tuple[int, ...], dtype: str, columns: tuple[Column, ...], **fields: object
) -> Manifest:
    given: dict[str, object] = {
        "name": name,
        "input_shape": shape,
        "input_dtype": dtype,
        "preprocess": STEPS,
        "columns": columns,
        "scores": {"covered_variance": 0.5},
        "training": {"seed": 1},
        "weights_sha256": "0" * 64,
        "golden_sha256": "0" * 64,
        "created": "2026-11-20",
    }
    return Manifest(**(given | fields))  # type: ignore[arg-type]


def spectrum_bundle(
    folder: Path, name: str, points: int = 64, seed: int = 0, latent: int = LATENT, hidden: int = 16
) -> Path:
    """An untrained encoder for float32 spectra: columns latent [latent] and target [1]."""
    torch.manual_seed(seed)
    options = {"points": points, "hidden": [hidden], "latent": latent, "targets": 1}
    labels = tuple(f"z{index}" for index in range(latent))
    columns = (Column("latent", "float32", labels), Column("target", "float32", ("x",)))
    manifest = _manifest(
        name, (points,), "float32", columns, kind="encoder_decoder", architecture="ednn", options=options
    )
    modules = Preprocess(STEPS, (points,)), EDNN(points, [hidden], latent, 1).eval()
    save_bundle(folder / name, manifest, modules, torch.randn(4, points), lambda m: f"# {m.name}\n")
    return folder / name


def heavy_bundle(folder: Path, name: str, side_px: int = 64) -> Path:
    """A network for uint16 frames with 0.4 G multiply-adds: some hundred a second on a core."""
    torch.manual_seed(0)
    options = {"labels": 2, "widths": [128, 128], "blocks": [6, 6]}
    columns = (Column("p", "float32", ("A", "B")), Column("labels", "uint32", ()))
    shape = (side_px, side_px)
    fields = {"kind": "classifier", "architecture": "droplet_cnn", "options": options}
    manifest = _manifest(name, shape, "uint16", columns, **fields)
    modules = Preprocess(STEPS, shape), DropletCNN(**options).eval()  # type: ignore[arg-type]
    raw = torch.randint(0, 1000, (4, *shape)).to(torch.uint16)
    save_bundle(folder / name, manifest, modules, raw, lambda m: f"# {m.name}\n")
    return folder / name
