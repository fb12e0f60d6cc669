"""Drawing perturbations: a pure function of a seed, a counter and a place, so that nothing global is drawn from."""

from __future__ import annotations

import functools
import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Generator, Tensor

from feedalign.feedback import counter_uniform

_MASK = (1 << 64) - 1
# The bit pattern of 1.0 in single precision, and its sign bit.
_ONE, _SIGN = 0x3F800000, -0x80000000
# Numbers that one generator draws, and from how many blocks on threads draw them.
_BLOCK = 2**17
_ENOUGH_BLOCKS = 16


def mixed(*numbers: int) -> int:
    """Return one 64-bit number for several, scattered so that neighbours share no pattern (SplitMix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def _rank() -> int:
    """Processes of one training draw for different samples, so they draw different numbers."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


@torch.library.custom_op("feedalign::perturbation", mutates_args=())
def _perturbation(like: Tensor, num: int, clock: Tensor, stream: int, signs: bool) -> Tensor:
    """Opaque to torch.compile, which cannot trace generators; eager and compiled code draw the same numbers."""
    shape = (num, *like.shape)
    if like.device.type != "cpu":
        return _drawn_on_device(shape, like, clock, stream, signs)
    seed, counter = clock.tolist()
    key = mixed(seed, counter, stream, _rank())
    if signs:
        return _signs(shape, Generator().manual_seed(key)).to(like.dtype)
    return _normal(shape, like.dtype, key)


@_perturbation.register_fake
def _(like: Tensor, num: int, clock: Tensor, stream: int, signs: bool) -> Tensor:
    del clock, stream, signs
    return like.new_empty((num, *like.shape))


@_perturbation.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, ...], like: Tensor, num: int, clock: Tensor, stream: int, signs: bool
) -> tuple[Tensor, int]:
    """Each model of a batch of them draws with its own clock; models that share one draw apart by their number."""
    lanes = []
    for lane in range(info.batch_size):
        shape = like if in_dims[0] is None else like.select(in_dims[0], lane)
        own = clock if in_dims[2] is None else clock.select(in_dims[2], lane)
        place = stream if in_dims[2] is not None else stream + (lane + 1) * 4096
        lanes.append(_perturbation(shape, num, own, place, signs))
    return torch.stack(lanes), 0


def perturbation(like: Tensor, num: int, clock: Tensor, stream: int, distribution: str) -> Tensor:
    """Draw perturbations for one tensor.

    Args:
        like: What is perturbed; its shape, dtype and device count.
        num: How many, K.
        clock: Seed and counter, int64 `[2]`; the same clock gives the same numbers.
        stream: Number of the place, so that places differ.
        distribution: `"normal"` or `"rademacher"`.

    Returns:
        `[K, *like.shape]`. On other devices than the CPU other numbers than there, without waiting for the device.
    """
    drawn: Tensor = _perturbation(like.detach(), num, clock, stream, distribution == "rademacher")
    return drawn


def _normal(shape: tuple[int, ...], dtype: torch.dtype, key: int) -> Tensor:
    """Blocks of a fixed size with a generator each, so that the numbers do not depend on how many threads fill them."""
    drawn = torch.empty(shape, dtype=dtype)
    blocks = drawn.view(-1).split(_BLOCK)

    def fill(number: int) -> None:
        blocks[number].normal_(generator=Generator().manual_seed(mixed(key, number)))

    # Torch fills a tensor in one thread whatever its size. Threads of ours pay where that takes longer than torch's own
    # go on spinning after their last operation, which hold the cores for about a millisecond.
    if len(blocks) < _ENOUGH_BLOCKS or torch.get_num_threads() == 1:
        for number in range(len(blocks)):
            fill(number)
    else:
        list(_threads(os.getpid(), torch.get_num_threads()).map(fill, range(len(blocks))))
    return drawn


@functools.lru_cache(maxsize=1)
def _threads(process: int, num: int) -> ThreadPoolExecutor:
    """Threads of this process; those of a parent do not live on in a fork."""
    del process
    return ThreadPoolExecutor(num, thread_name_prefix="feedalign")


def _signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """-1 and 1 from the bits of random words: 30 times as fast as one draw for each."""
    size = math.prod(shape)
    words = torch.empty(-(-size // 32), dtype=torch.int64).random_(generator=generator)
    bits = words.to(torch.int32).unsqueeze(1) << torch.arange(32, dtype=torch.int32)
    return bits.bitwise_and_(_SIGN).bitwise_or_(_ONE).view(torch.float32).flatten()[:size].reshape(shape)


def _drawn_on_device(shape: tuple[int, ...], like: Tensor, clock: Tensor, stream: int, signs: bool) -> Tensor:
    """Counter-based numbers: the clock is read on the device."""
    # Place and rank go into the seed, so that no place draws at one forward what another did at the one before.
    seed, place = clock[0] ^ (mixed(stream, _rank()) >> 2), 2 * clock[1]
    size = (math.prod(shape),)
    first = counter_uniform(size, seed, place)
    if signs:
        return torch.where(first < 0, -1.0, 1.0).to(like.dtype).reshape(shape)
    radius = (-2 * ((1 + first) / 2).clamp_(min=2**-25).log_()).sqrt_()
    angle = math.pi * counter_uniform(size, seed, place + 1)
    return (radius * angle.cos_()).to(like.dtype).reshape(shape)
