"""A counter-based uniform draw in Python's own integers: what every draw of BRSF must be.

A bijection of 32-bit words (two xor-shift-multiply rounds) hashes the seed and the counter into a key, word by word,
then each entry's index, keyed before its first round and, with another key, after it.
"""

import math

import torch
from torch import Tensor

_MASK = 2**32 - 1


def mix32(bits: int) -> int:
    bits = ((bits ^ (bits >> 16)) * 0x21F0AAAD) & _MASK
    bits = ((bits ^ (bits >> 15)) * 0x735A2D97) & _MASK
    return bits ^ (bits >> 15)


def draw(shape: tuple[int, ...], seed: int, counter: int) -> Tensor:
    """Entries in `+-1/sqrt(fan_in)` from the 24 highest bits of each hash, rounded to float32."""
    key = 0
    for number in (seed, counter):
        for word in (number & _MASK, number >> 32):
            key = mix32(key ^ word)
    hashes = [mix32(mix32((index + key) & _MASK) ^ mix32(key ^ 0x9E3779B9)) for index in range(math.prod(shape))]
    numerators = torch.tensor([2 * (bits >> 8) * 2.0**-24 - 1 for bits in hashes], dtype=torch.float64)
    return (numerators.float() * (1 / math.sqrt(math.prod(shape[1:])))).reshape(shape).double()
