"""Batch-wise random-magnitude sign-concordant feedback: FRSF with the M of one forward, drawn by counter."""

import torch
from torch import Tensor

from reference import frsf
from reference.counter_draw import draw
from reference.perceptron import Case, Signals

# In the place of the first layer's feedback: that layer sends nothing back.
NONE = torch.empty(0)


def magnitudes(weights: list[Tensor], seed: int, num_forwards: int) -> list[Tensor]:
    """M_2 ... M_L of the forward of this number, the first being 1; every layer has a stream of its own."""
    first = num_forwards * (len(weights) - 1)
    return [NONE, *(draw(tuple(w.shape), seed, first + layer) for layer, w in enumerate(weights[1:]))]


def signals(case: Case) -> Signals:
    return frsf.signals(case)
