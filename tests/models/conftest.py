"""Tests of models run on one thread: two on a busy machine wait for each other."""

import torch

torch.set_num_threads(1)
