"""Preprocessing: each step by hand, events apart from each other, refusals."""

from typing import Any

import numpy as np
import pytest
import torch

import models.steps
from models.manifest import BundleError
from models.preprocess import Preprocess
from models.steps import STEPS, signed_log


def apply(steps: list[dict[str, Any]], raw: torch.Tensor, **arrays: torch.Tensor) -> torch.Tensor:
    return Preprocess({"steps": steps}, tuple(raw.shape[1:]), arrays)(raw)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16, torch.int32, torch.float32])
def test_raw_numbers_of_any_type_become_float32_with_a_channel(dtype: torch.dtype) -> None:
    raw = torch.arange(24).reshape(2, 3, 4).to(dtype)
    out = apply([], raw)
    assert out.dtype == torch.float32
    assert out.shape == (2, 1, 3, 4)
    assert torch.equal(out.flatten(), torch.arange(24.0))


def test_modules_become_channels_and_spectra_get_one() -> None:
    assert apply([], torch.zeros(2, 5, 3, 4)).shape == (2, 5, 3, 4)
    assert apply([], torch.zeros(2, 7)).shape == (2, 1, 7)


def test_dark_gain_and_mask_in_their_order() -> None:
    raw = torch.tensor([[[10, 20], [30, 40]]], dtype=torch.uint16)
    dark, gain = torch.full((2, 2), 10.0), torch.tensor([[1.0, 2.0], [0.5, 1.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    out = apply([{"op": "dark"}, {"op": "gain"}, {"op": "mask"}], raw, dark=dark, gain=gain, mask=mask)
    assert out.tolist() == [[[[0, 20], [10, 0]]]]


def test_mask_also_silences_nan() -> None:
    raw = torch.tensor([[1.0, float("nan")]])
    assert apply([{"op": "mask"}], raw, mask=torch.tensor([1, 0])).tolist() == [[[1, 0]]]


def test_scale_crop_and_logarithms() -> None:
    raw = torch.arange(16.0).reshape(1, 4, 4)
    crop = {"op": "crop", "top": 1, "left": 2, "height": 2, "width": 1}
    assert apply([{"op": "scale", "offset": 1.0, "factor": 2.0}, crop], raw).flatten().tolist() == [10, 18]
    logs = apply([{"op": "log1p"}], torch.tensor([[-5.0, 0.0, np.e - 1]]))
    assert logs.flatten().tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    signed = apply([{"op": "signed_log", "alpha": 0.2}], torch.tensor([[-100.0, 0.0, 100.0]])).flatten()
    assert signed[1] == 0
    assert signed[2] == -signed[0] == pytest.approx(0.2 * (np.log(100 + np.exp(-1)) + 1))


def test_spectrum_crop() -> None:
    crop = {"op": "crop", "top": 0, "left": 1, "height": 1, "width": 2}
    assert apply([crop], torch.arange(4.0)[None]).tolist() == [[[1, 2]]]


def test_standardise_gives_zero_mean_and_unit_spread_and_survives_a_constant() -> None:
    raw = torch.stack([torch.arange(50.0), torch.full((50,), 3.0)])
    out = apply([{"op": "standardise", "epsilon": 1e-6}], raw)[:, 0]
    assert out[0].mean().item() == pytest.approx(0, abs=1e-5)
    assert out[0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert out[1].tolist() == [0.0] * 50


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_event_does_not_touch_its_neighbours(bad: float) -> None:
    steps: list[dict[str, Any]] = [
        {"op": "scale", "offset": 1.0, "factor": 0.5},
        {"op": "signed_log", "alpha": 0.2},
        {"op": "standardise", "epsilon": 1e-6},
    ]
    raw = torch.rand(3, 8, 8) * 100
    spoiled = raw.clone()
    spoiled[1, 3, 3] = bad
    assert torch.equal(apply(steps, spoiled)[[0, 2]], apply(steps, raw)[[0, 2]])


def test_signed_log_is_odd_and_finite_at_zero() -> None:
    x = torch.linspace(-1e5, 1e5, 1001)
    assert torch.equal(signed_log(x, 0.2), -signed_log(-x, 0.2))
    assert torch.isfinite(signed_log(torch.zeros(1), 0.2)).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"steps": [{"op": "pickle"}]}, r"op in preprocess.steps\[0\].*'pickle'"),
        ({"steps": [{"op": "scale", "offset": 1.0}]}, r"missing key in preprocess.steps\[0\].*factor"),
        ({"steps": [{"op": "log1p", "base": 2}]}, "unknown key .*base"),
        ({"steps": [{"op": "signed_log", "alpha": "0.2"}]}, "type of 'alpha'.*float.*str"),
        ({"steps": [], "dark": 1}, "unknown key in preprocess.*dark"),
        ({"steps": [{"op": "dark"}]}, r"arrays in preprocess: expected \['dark'\], got \[\]"),
        (
            {"steps": [{"op": "crop", "top": 0, "left": 3, "height": 4, "width": 2}]},
            "crop in .*a rectangle inside 4 x 4",
        ),
        ({"steps": [{"op": "clip", "low": 2, "high": 1.0}]}, "clip in .*low below high"),
        ({"steps": ["log1p"]}, r"op in preprocess.steps\[0\].*got 'log1p'"),
        ({"steps": [{"op": ["x"]}]}, r"op in preprocess.steps\[0\].*got \['x'\]"),
        ({"steps": [{"op": "scale", "offset": 1e999, "factor": 1.0}]}, "values in .*finite numbers.*offset"),
        ({"steps": [{"op": "log1p"}] * 33}, "steps in preprocess: expected at most 32, got 33"),
        ({"steps": [{"op": "resize", "height": 60_000, "width": 60_000}]}, "resize in .*positive sizes"),
        ({"steps": [3]}, r"op in preprocess.steps\[0\].*got 3"),
        ({"steps": [{"op": "scale", "offset": 0, "factor": 0}]}, "scale in .*a factor other than 0"),
        (
            {"steps": [{"op": "als_baseline", "smoothness": 1e5, "asymmetry": 0.1, "iterations": 3}]},
            "a spectrum",
        ),
        (
            {"steps": [{"op": "two_point_correlation", "rings": 4, "angles": 7, "floor": 1.0}]},
            "an even number of angles",
        ),
        ({"steps": [{"op": "bin", "factor": 3}]}, "bin in .*a factor of 4 and 4, got 3; crop"),
        ({"steps": [{"op": "resize", "height": 1, "width": 9}]}, "resize in .*positive sizes, height 1 for"),
        ({"steps": [{"op": "bin", "factor": 2}, {"op": "mask"}]}, "expected mask before the size changes"),
    ],
)
def test_wrong_specification_is_refused(spec: dict[str, Any], message: str) -> None:
    arrays = {"mask": torch.ones(4, 4)} if {"op": "mask"} in spec["steps"] else {}
    with pytest.raises(BundleError, match=message):
        Preprocess(spec, (4, 4), arrays)


def test_bin_is_the_mean_of_its_pixels() -> None:
    raw = torch.arange(32.0).view(1, 4, 8)
    frame = apply([{"op": "bin", "factor": 2}], raw)
    assert frame.shape == (1, 1, 2, 4)
    assert frame[0, 0, 1, 3] == (raw[0, 2:, 6:].sum() / 4)
    assert apply([{"op": "bin", "factor": 4}], raw[:, 0])[0, 0].tolist() == [1.5, 5.5]


def test_resize_keeps_a_plane_and_a_spectrums_mean() -> None:
    """Bilinear: a plane stays one; a line narrower than a new bin keeps its area."""
    plane = (torch.arange(12.0)[:, None] + 2 * torch.arange(12.0)).expand(1, 12, 12)
    out = apply([{"op": "resize", "height": 6, "width": 4}], plane)[0, 0]
    assert out.shape == (6, 4)
    assert torch.diff(out[1:-1, 1:-1]).flatten().tolist() == pytest.approx([6.0] * 4, rel=1e-4)
    line = torch.zeros(1, 100)
    line[0, 50] = 1.0
    binned = apply([{"op": "resize", "height": 1, "width": 10}], line)[0, 0]
    assert binned.sum().item() == pytest.approx(0.1, rel=1e-4)


def test_sizes_behind_the_steps_are_known() -> None:
    steps = [
        {"op": "crop", "top": 2, "left": 0, "height": 8, "width": 12},
        {"op": "bin", "factor": 4},
        {"op": "resize", "height": 5, "width": 7},
    ]
    assert tuple(Preprocess({"steps": steps}, (16, 12))(torch.zeros(1, 16, 12)).shape) == (1, 1, 5, 7)


def test_clip_bounds_and_whole_numbers_are_numbers() -> None:
    made = Preprocess({"steps": [{"op": "clip", "low": 0, "high": 5}]}, (3,))
    assert made(torch.tensor([[-1.0, 2.0, 9.0]])).tolist() == [[[0.0, 2.0, 5.0]]]
    assert made.key() == Preprocess({"steps": [{"op": "clip", "low": 0.0, "high": 5.0}]}, (3,)).key()


def test_each_kind_of_step_is_described() -> None:
    described = models.steps.__doc__ or ""
    assert not [op for op in STEPS if f"    {op}" not in described]


def test_array_of_wrong_shape_is_refused() -> None:
    with pytest.raises(BundleError, match=r"shape of dark .*expected \(4, 4\), got \(4, 5\)"):
        Preprocess({"steps": [{"op": "dark"}]}, (4, 4), {"dark": torch.zeros(4, 5)})
