"""Small untrained bundles of each kind, with events to judge them by."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.bundle import Bundle
from models.data_sets.data_set import DataSet
from models.manifest import Calibrated, Column, Manifest
from models.preprocess import Preprocess

HOSTILE = "<script>alert(1)</script>"
CLASSES = ("Round", "Streak", HOSTILE)
PHASES = ("low", "high", "none")
SIDE, POINTS, TARGETS = 16, 64, 40


class Labeller(nn.Module):
    """[B, 1, H, W] -> packed [B, L + 1], with the parts that Grad-CAM++ asks for."""

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 4, 1)
        self.head = nn.Linear(4, labels)
        self.register_buffer("threshold", torch.full((labels,), 0.5))

    def features(self, x_BCHW: Tensor) -> Tensor:
        return torch.relu(self.conv(x_BCHW))

    def logits_of(self, features_BChw: Tensor) -> Tensor:
        logits_BL: Tensor = self.head(features_BChw.mean((2, 3)))
        return logits_BL

    def forward(self, x_BCHW: Tensor) -> Tensor:
        p_BL = torch.sigmoid(self.logits_of(self.features(x_BCHW)))
        bits_L = 2.0 ** torch.arange(p_BL.shape[1])
        return torch.cat([p_BL, ((p_BL > 0.5) * bits_L).sum(1, keepdim=True)], 1)


class Phases(nn.Module):
    """[B, 1, N] -> packed [B, L + 1]; without features, as the recurrent networks are."""

    def __init__(self, points: int, classes: int) -> None:
        super().__init__()
        self.dense = nn.Linear(points, classes)

    def forward(self, x_B1N: Tensor) -> Tensor:
        p_BL = self.dense(x_B1N[:, 0]).softmax(1)
        return torch.cat([p_BL, p_BL.argmax(1, keepdim=True).float()], 1)


class Votes(Phases):
    """Counts points, so that no gradient reaches its input."""

    def forward(self, x_B1N: Tensor) -> Tensor:
        share_B = (x_B1N[:, 0] > 0.5).float().mean(1, keepdim=True)
        return torch.cat([1 - share_B, share_B, 0 * share_B, (share_B > 0.5).float()], 1)


class Mixture(nn.Module):
    """[B, 1, H, W] -> packed mu, log variance, cluster, log-likelihood."""

    def __init__(self, latent: int, side: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(side * side, latent), nn.Linear(latent, side * side)
        self.side = side

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mu = self.encoder(x_BCHW.flatten(1)) / 10
        likelihood = -mu.square().sum(1, keepdim=True)
        return torch.cat([mu, torch.zeros_like(mu), (mu[:, :1] > mu[:, :1].mean()).float(), likelihood], 1)


class DrawingMixture(Mixture):
    """The same with a decoder."""

    def decode(self, z_BZ: Tensor) -> Tensor:
        drawn: Tensor = self.decoder(z_BZ).view(-1, 1, self.side, self.side)
        return drawn


class Coder(nn.Module):
    """[B, 1, N] -> packed [B, k + T]."""

    def __init__(self, points: int, latent: int, targets: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(points, latent), nn.Linear(latent, targets)

    def decode(self, latent_Bk: Tensor) -> Tensor:
        target_BT: Tensor = self.decoder(latent_Bk)
        return target_BT

    def forward(self, x_B1N: Tensor) -> Tensor:
        latent_Bk = self.encoder(x_B1N[:, 0])
        return torch.cat([latent_Bk, self.decode(latent_Bk)], 1)


class LinearCoder(Coder):
    """With the orthonormal directions of a linear encoder."""

    @property
    def vectors(self) -> Tensor:
        return torch.linalg.qr(self.encoder.weight.T)[0].T


def bundle_of(kind: str, network: nn.Module, shape: tuple[int, ...], **changes: Any) -> Bundle:
    """A bundle in memory; `changes` are fields of the manifest, `columns` among them."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "kind": kind,
        "architecture": "tiny",
        "options": {},
        "input_shape": shape,
        "input_dtype": "float32",
        "preprocess": {"steps": []},
        "scores": {"test": {"some_score": 0.5, "baseline_some_score": 0.25}},
        "training": {"seed": 1, "about": "Says what it says.", "limits": f"Not for {HOSTILE}."},
        "weights_sha256": "0" * 64,
        "golden_sha256": "0" * 64,
        "created": "2026-11-20",
        "sha256": "ab" * 32,
    }
    manifest = Manifest(**(fields | changes))
    preprocess = Preprocess({"steps": []}, shape)
    raw = torch.zeros(1, *shape)
    network.eval().requires_grad_(False)
    return Bundle(manifest, preprocess, network, raw, torch.zeros(1, manifest.packed_width), "key")


def frames(count: int, seed: int = 0) -> Tensor:
    """Counts float32 [count, SIDE, SIDE]."""
    return torch.from_numpy(np.random.default_rng(seed).poisson(20, (count, SIDE, SIDE)).astype(np.float32))


def classifier(count: int = 24) -> tuple[Bundle, DataSet]:
    torch.manual_seed(0)
    columns = (Column("p", "float32", CLASSES), Column("labels", "uint32"))
    promised = (Calibrated("Streak", 0.25, 0.99, 0.95, 400, 0.5, "held-out", "2026-11-20"),)
    bundle = bundle_of("classifier", Labeller(3), (SIDE, SIDE), columns=columns, calibrated=promised)
    targets = (np.random.default_rng(1).random((count, 3)) < 0.4).astype(np.float32)
    return bundle, DataSet(frames(count), torch.from_numpy(targets), CLASSES)


def phases(network: type[Phases] = Phases) -> tuple[Bundle, DataSet]:
    """Two whole runs of 15 curves whose transition comes after 6 curves, the intensity rising with it."""
    torch.manual_seed(0)
    columns = (Column("p", "float32", PHASES), Column("phase", "int32"))
    bundle = bundle_of("phases", network(POINTS, 3), (POINTS,), columns=columns)
    number = np.tile(np.arange(15), 2)
    high = (number >= 6).astype(np.int64)
    inputs = np.random.default_rng(2).random((30, POINTS)) * 0.1 + high[:, None]
    facts = {"ramp": np.repeat([0, 1], 15), "curve_number": number, "boundary": np.full(30, 6)}
    return bundle, DataSet(
        torch.from_numpy(inputs.astype(np.float32)),
        torch.from_numpy(np.eye(3, dtype=np.float32)[high]),
        PHASES,
        {name: torch.from_numpy(values) for name, values in facts.items()},
    )


def mixture(network: type[Mixture] = DrawingMixture, count: int = 30) -> tuple[Bundle, DataSet]:
    torch.manual_seed(0)
    latent = ("z0", "z1")
    columns = (
        Column("mu", "float32", latent),
        Column("log_variance", "float32", latent),
        Column("cluster", "int32"),
        Column("log_likelihood", "float32"),
    )
    bundle = bundle_of("vae_mixture", network(2, SIDE), (SIDE, SIDE), columns=columns)
    truth = torch.eye(2)[torch.arange(count) % 2]
    return bundle, DataSet(frames(count), truth, ("Round", "Streak"))


def coder(
    names: tuple[str, ...] = ("ramp", "d_angstrom"), network: type[Coder] = Coder, points: int = POINTS
) -> tuple[Bundle, DataSet]:
    torch.manual_seed(0)
    columns = (Column("latent", "float32", ("t0", "t1")), Column("target", "float32", names))
    bundle = bundle_of("encoder_decoder", network(points, 2, len(names)), (points,), columns=columns)
    inputs = torch.rand(20, points)
    return bundle, DataSet(inputs, torch.rand(20, len(names)), names)


SPECTRUM = tuple(f"{530 + i / 10:.3f} eV" for i in range(TARGETS))
