"""Batch-wise random-magnitude sign-concordant feedback: FRSF M drawn by seed, count and place."""

import math

import torch
from torch import Generator, Tensor

from reference import frsf
from reference.perceptron import Case, Signals

# In the place of the first layer's feedback: that layer sends nothing back.
NONE = torch.empty(0)
_FIRST_PLACE, _RANK, _BLOCK = 2**32, 0, 2**17


def scattered(*numbers: int) -> int:
    """SplitMix64 over several numbers, in Python's own integers."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        state = ((state ^ state >> 27) * 0x94D049BB133111EB) % 2**64
        state ^= state >> 31
    return state


def draw(shape: tuple[int, ...], seed: int, num_forwards: int, place: int) -> Tensor:
    """Entries in `+-1/sqrt(fan_in)`: the middle of one of 2^16 equal parts, by the four quarters of random words."""
    size = math.prod(shape)
    entries: list[float] = []
    for block in range(-(-size // _BLOCK)):
        key = scattered(scattered(seed, num_forwards, place, _RANK), block)
        num_words = -(-min(_BLOCK, size - block * _BLOCK) // 4)
        words = torch.empty(num_words, dtype=torch.int64)
        words.random_(-(2**63), None, generator=Generator().manual_seed(key))
        for word in words.tolist():
            quarters = [(word >> shift) % 2**16 for shift in (0, 16, 32, 48)]
            entries += [(q + 0.5 if q < 2**15 else q - 2**16 + 0.5) / 2**15 for q in quarters]
    unit = torch.tensor(entries[:size], dtype=torch.float64)
    return (unit / math.sqrt(math.prod(shape[1:]))).reshape(shape)


def magnitudes(weights: list[Tensor], seed: int, num_forwards: int) -> list[Tensor]:
    """M_2 ... M_L of the forward of this number, the first being 1; every layer has a place of its own."""
    drawn = [draw(tuple(w.shape), seed, num_forwards, _FIRST_PLACE + layer) for layer, w in enumerate(weights[1:])]
    return [NONE, *drawn]


def signals(case: Case) -> Signals:
    return frsf.signals(case)
