"""Bundles on disk: write one, load one, check that it still answers as it did.

Owns the tensors of a bundle; `models.manifest` owns its description. Loading reads each file once, compares
its hash with the manifest before one byte is parsed, and parses safetensors only
(github.com/huggingface/safetensors: a JSON table and raw bytes, no code). The architecture comes from the
table in `models.architectures`, never from the file.

B batch, R packed width: all columns side by side as float32; an integer column holds small integers exactly.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from models.architectures import build_network, check_tensors
from models.manifest import (
    CARD_FILE,
    GOLDEN_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Manifest,
    dump_manifest,
    fault,
    read_manifest,
)
from models.preprocess import Preprocess

MAX_WEIGHTS_BYTES: Final = 4 << 30  # a larger file is not one of ours: the shipped ones are a few MB
MAX_GOLDEN_BYTES: Final = 256 << 20
GOLDEN_EVENTS: Final = 8
_COPY_AGAIN = "copy the whole bundle again from where it was trained"
_INPUT_TYPES: Final = {
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "int16": torch.int16,
    "uint32": torch.uint32,
    "int32": torch.int32,
    "float32": torch.float32,
    "float64": torch.float64,
}


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle on the CPU, in evaluation mode; move its two modules where they shall run."""

    manifest: Manifest
    preprocess: Preprocess
    network: nn.Module
    golden_input: Tensor
    golden_output: Tensor
    preprocess_key: str


@dataclass(frozen=True)
class Tolerance:
    """How far an answer may lie from the golden one: floats by a share of the column's largest value."""

    share: float
    integers_exact: bool


# float32 on another machine sums in another order: 1e-3 of a column's largest value is 10 times what was
# seen.
FLOAT32: Final = Tolerance(share=1e-3, integers_exact=True)
# bfloat16 keeps 8 bits: the shipped bundles come out within 0.013 of a column's largest value, and a class
# right at its threshold may flip.
BFLOAT16: Final = Tolerance(share=2e-2, integers_exact=False)


def load_bundle(directory: Path) -> Bundle:
    """Load and verify one bundle; raises BundleError before anything of an altered file is parsed."""
    directory = Path(directory)
    manifest = read_manifest(directory)
    weights = _read_tensors(directory / WEIGHTS_FILE, manifest.weights_sha256, MAX_WEIGHTS_BYTES)
    golden = _read_tensors(directory / GOLDEN_FILE, manifest.golden_sha256, MAX_GOLDEN_BYTES)
    golden_input, golden_output = _golden(golden, manifest, directory)
    arrays = {name[11:]: tensor for name, tensor in weights.items() if name.startswith("preprocess.")}
    preprocess = Preprocess(manifest.preprocess, manifest.input_shape, arrays)
    tensors = {name[8:]: t for name, t in weights.items() if name.startswith("network.")}
    check_tensors(manifest, tensors, directory / WEIGHTS_FILE)
    network = build_network(manifest)
    network.load_state_dict(tensors)
    preprocess.eval().requires_grad_(False)
    network.eval().requires_grad_(False)
    return Bundle(manifest, preprocess, network, golden_input, golden_output, preprocess.key())


def save_bundle(
    directory: Path,
    manifest: Manifest,
    modules: tuple[Preprocess, nn.Module],
    golden_input: Tensor,
    card: Callable[[Manifest], str],
) -> Manifest:
    """Write a bundle and read it back; gives the manifest with its hashes. `golden_input` is raw, [B,
    *input_shape].

    `modules` are the preprocessing and the network. The manifest is written last: a directory without one is
    no bundle.
    """
    preprocess, network = modules
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    golden = {"input": golden_input.contiguous(), "output": _run(preprocess, network, golden_input)}
    tensors = {f"preprocess.{name}": tensor for name, tensor in preprocess.state_dict().items()}
    tensors |= {f"network.{name}": tensor.contiguous() for name, tensor in network.state_dict().items()}
    weights_bytes, golden_bytes = save(tensors), save(golden)
    complete = replace(manifest, weights_sha256=_sha256(weights_bytes), golden_sha256=_sha256(golden_bytes))
    write_file(directory / WEIGHTS_FILE, weights_bytes)
    write_file(directory / GOLDEN_FILE, golden_bytes)
    write_description(directory, complete, card)
    return load_bundle(directory).manifest


def write_description(directory: Path, manifest: Manifest, card: Callable[[Manifest], str]) -> None:
    """The card and, last, the manifest: a reader finds the old bundle or the new one."""
    content = dump_manifest(manifest)
    write_file(directory / CARD_FILE, card(replace(manifest, sha256=_sha256(content))).encode())
    write_file(directory / MANIFEST_FILE, content)


def run_bundle(bundle: Bundle, raw: Tensor) -> Tensor:
    """The plain way through: raw [B, *input_shape] -> packed float32 [B, R], on the bundle's device."""
    return _run(bundle.preprocess, bundle.network, raw)


def unpack(manifest: Manifest, packed: Tensor) -> dict[str, Tensor]:
    """Packed [B, R] -> one tensor per column, [B] or [B, width], still float32."""
    parts = torch.split(packed, [column.width for column in manifest.columns], dim=1)
    pairs = zip(manifest.columns, parts, strict=True)
    return {column.name: part if column.labels else part[:, 0] for column, part in pairs}


def verify_golden(
    bundle: Bundle,
    run: Callable[[Tensor], Tensor],
    tolerance: Tolerance = FLOAT32,
    where: str = "the golden check",
) -> None:
    """Give the golden input to `run` (raw -> packed) and compare; BundleError names the first bad column."""
    got = run(bundle.golden_input).detach().to("cpu", torch.float32)
    if got.shape != bundle.golden_output.shape:
        shape = tuple(bundle.golden_output.shape)
        raise fault("packed output", where, shape, tuple(got.shape), "load the bundle with load_bundle")
    expected_columns = unpack(bundle.manifest, bundle.golden_output)
    for column in bundle.manifest.columns:
        expected, answer = expected_columns[column.name], unpack(bundle.manifest, got)[column.name]
        share = tolerance.share if column.dtype == "float32" else 0.0
        if share or tolerance.integers_exact:
            _compare(column.name, expected, answer, share, where)


def _compare(name: str, expected: Tensor, got: Tensor, share: float, where: str) -> None:
    worst = (got - expected).abs().max().item()
    bound = share * max(expected.abs().max().item(), 1e-6)
    if not worst <= bound:  # also true for NaN
        remedy = "run it in float32 on the CPU; if that fails too, " + _COPY_AGAIN
        raise fault(
            f"column {name!r}", where, f"the golden output within {bound:.3g}", f"off by {worst:.3g}", remedy
        )


def _run(preprocess: nn.Module, network: nn.Module, raw: Tensor) -> Tensor:
    with torch.inference_mode():
        packed: Tensor = network(preprocess(raw))
        return packed.clone()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_tensors(path: Path, sha256: str, limit_bytes: int) -> dict[str, Tensor]:
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe would be waited for
            raise fault("file", path, "a regular file", "something else", _COPY_AGAIN)
        if size > limit_bytes:
            raise fault("file size", path, f"<= {limit_bytes} bytes", size, _COPY_AGAIN)
        content = path.read_bytes()
    except OSError as error:
        raise fault("file", path, "a readable file", error.strerror, _COPY_AGAIN) from error
    if _sha256(content) != sha256:
        raise fault("sha256", path, sha256, _sha256(content), "it was altered or cut short: " + _COPY_AGAIN)
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise fault("content", path, "safetensors", error, _COPY_AGAIN) from error


def _golden(tensors: Mapping[str, Tensor], manifest: Manifest, directory: Path) -> tuple[Tensor, Tensor]:
    where = directory / GOLDEN_FILE
    if sorted(tensors) != ["input", "output"]:
        raise fault("tensors", where, ["input", "output"], sorted(tensors), _COPY_AGAIN)
    raw, packed = tensors["input"], tensors["output"]
    expected = ((len(raw), *manifest.input_shape), _INPUT_TYPES[manifest.input_dtype])
    if (tuple(raw.shape), raw.dtype) != expected or len(raw) == 0:
        raise fault("golden input", where, expected, (tuple(raw.shape), raw.dtype), _COPY_AGAIN)
    if tuple(packed.shape) != (len(raw), manifest.packed_width) or packed.dtype != torch.float32:
        shape = (len(raw), manifest.packed_width)
        raise fault(
            "golden output", where, f"float32 {shape}", f"{packed.dtype} {tuple(packed.shape)}", _COPY_AGAIN
        )
    return raw, packed


def write_file(path: Path, content: bytes) -> None:
    """A kill leaves the old file or the new one."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
