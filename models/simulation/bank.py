"""A bank of simulated events for demonstrations and tests, made on the spot (10 ms a frame)."""

from functools import lru_cache

from models.simulation import diffractograms, nanodroplets

HELD_OUT_SEED = 900_000  # seeds from here on are never used for training


@lru_cache(maxsize=4)
def droplet_bank(n: int, seed: int = HELD_OUT_SEED) -> nanodroplets.Droplets:
    """`n` held-out droplet images with the measured label statistics; kept for the next who asks."""
    return nanodroplets.simulate(n, seed)


@lru_cache(maxsize=4)
def diffractogram_bank(n: int, seed: int = HELD_OUT_SEED) -> diffractograms.Diffractograms:
    """`n` held-out diffractograms at random points of random ramps."""
    return diffractograms.simulate(n, seed)
