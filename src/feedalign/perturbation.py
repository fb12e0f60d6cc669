"""Drawing perturbations: a pure function of a seed, a counter and a place, so that nothing global is drawn from."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Generator, Tensor

from feedalign.feedback import counter_uniform
from feedalign.transforms import is_plain, is_watched, outside_batched_gradients

_MASK = (1 << 64) - 1
# The bit pattern of 1.0 in single precision, and its sign bit.
_ONE, _SIGN = 0x3F800000, -0x80000000
# Numbers that one generator draws, and from how many blocks on threads draw them.
_BLOCK = 2**17
_ENOUGH_BLOCKS = 16
# The most numbers, four to a word, that torch converts without threads: each of our threads would get a team of torch's
# own, and with more of them than cores all of torch waits longer for its threads, as long as the process runs.
_SERIAL = 2**15 - 4


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
def _perturbation(like: Tensor, num: int, clock: Tensor, stream: int, kind: str, rank: int) -> Tensor:
    """Opaque to torch.compile, which cannot trace generators; eager and compiled code draw the same numbers."""
    return _drawn([like], num, clock, stream, kind, rank)[0]


@_perturbation.register_fake
def _(like: Tensor, num: int, clock: Tensor, stream: int, kind: str, rank: int) -> Tensor:
    del clock, stream, kind, rank
    return like.new_empty((num, *like.shape))


@_perturbation.register_vmap
def _(
    info: Any, in_dims: tuple[int | None, ...], like: Tensor, num: int, clock: Tensor, stream: int, kind: str, rank: int
) -> tuple[Tensor, int]:
    """Each model of a batch of them draws with its own clock; models that share one draw apart by their number."""
    lanes = []
    for lane in range(info.batch_size):
        shape = like if in_dims[0] is None else like.select(in_dims[0], lane)
        own = clock if in_dims[2] is None else clock.select(in_dims[2], lane)
        place = stream if in_dims[2] is not None else stream + (lane + 1) * 4096
        lanes.append(_perturbation(shape, num, own, place, kind, rank))
    return torch.stack(lanes), 0


def perturbations(
    likes: Sequence[Tensor], num: int, clock: Tensor, first_stream: int, distribution: str
) -> list[Tensor]:
    """Draw perturbations for several tensors.

    Args:
        likes: What is perturbed; their shapes, dtypes and devices count.
        num: How many for each, K.
        clock: Seed and counter, int64 `[2]`; the same clock gives the same numbers.
        first_stream: Number of the first's place; the others have those that follow.
        distribution: `"normal"` or `"rademacher"`.

    Returns:
        `[K, *like.shape]` for each. On other devices than the CPU other numbers than there, without waiting for the
        device.
    """
    return _placed(likes, num, clock, first_stream, distribution, _rank())


def perturbation(like: Tensor, num: int, clock: Tensor, stream: int, distribution: str) -> Tensor:
    """Draw perturbations for one tensor; see `perturbations`."""
    return perturbations([like], num, clock, stream, distribution)[0]


def magnitude(weight: Tensor, clock: Tensor, stream: int) -> Tensor:
    """Draw what sign-symmetric feedback takes for the size of a weight, the same on all processes.

    Args:
        weight: The weight, `[out, in, ...]`; its shape, dtype and device count.
        clock: Seed and counter, int64 `[2]`.
        stream: Number of the place.

    Returns:
        Entries from `U(+-1 / sqrt(fan_in))`, of the weight's shape; on the CPU, on 2^16 levels.
    """
    unit = _placed([weight], 1, clock, stream, "uniform", 0)[0][0]
    return unit.mul_(1 / math.sqrt(math.prod(weight.shape[1:])))


def _placed(likes: Sequence[Tensor], num: int, clock: Tensor, first_stream: int, kind: str, rank: int) -> list[Tensor]:
    likes = [like.detach() for like in likes]
    # In plain eager code without the operator, which takes as long as a small draw; whoever traces is to see it.
    if type(clock) is Tensor and is_plain() and not is_watched():
        return _drawn(likes, num, clock, first_stream, kind, rank)
    return [_perturbation(like, num, clock, place, kind, rank) for place, like in enumerate(likes, first_stream)]


def _drawn(likes: Sequence[Tensor], num: int, clock: Tensor, first_stream: int, kind: str, rank: int) -> list[Tensor]:
    if any(like.device.type != "cpu" for like in likes):
        # A model may lie on several devices: each tensor's numbers are those of its own.
        return [
            _drawn([like], num, clock, place, kind, rank)[0]
            if like.device.type == "cpu"
            else _drawn_on_device(like, num, clock, place, kind, rank)
            for place, like in enumerate(likes, first_stream)
        ]
    seed, counter = clock.tolist()
    keys = [mixed(seed, counter, first_stream + number, rank) for number in range(len(likes))]
    # By name here and below: the user may have set another default device.
    drawn = [torch.empty((num, *like.shape), dtype=like.dtype, device="cpu") for like in likes]
    with outside_batched_gradients():
        if kind == "rademacher":
            for one, key in zip(drawn, keys, strict=True):
                _fill_signs(one, _generator(key))
        else:
            _fill(_FILLS[kind], drawn, keys)
    return drawn


def _generator(seed: int) -> Generator:
    return Generator("cpu").manual_seed(seed)


def _fill(fill: Callable[[Tensor, Generator], object], drawn: list[Tensor], keys: list[int]) -> None:
    """Blocks of a fixed size with a generator each, so that the numbers do not depend on how many threads fill them."""
    blocks: list[Tensor] = []
    seeds: list[int] = []
    for tensor, key in zip(drawn, keys, strict=True):
        parts = tensor.view(-1).split(_BLOCK) if tensor.numel() > _BLOCK else (tensor.view(-1),)
        blocks += parts
        seeds += [mixed(key, number) for number in range(len(parts))]

    def fill_block(block: Tensor, seed: int) -> None:
        fill(block, _generator(seed))

    # Torch fills a tensor in one thread whatever its size. Threads of ours pay where that takes longer than torch's own
    # go on spinning after their last operation, which hold the cores for about a millisecond.
    if len(blocks) < _ENOUGH_BLOCKS or torch.get_num_threads() == 1:
        for block, seed in zip(blocks, seeds, strict=True):
            fill_block(block, seed)
    else:
        list(_threads(os.getpid(), torch.get_num_threads()).map(fill_block, blocks, seeds))


def _fill_normal(block: Tensor, generator: Generator) -> None:
    block.normal_(generator=generator)


def _fill_uniform(block: Tensor, generator: Generator) -> None:
    """The middles of 2^16 equal parts of -1 to 1: four numbers of a word, which takes as long as one drawn by torch."""
    for part in block.split(_SERIAL):
        words = torch.empty(-(-part.numel() // 4), dtype=torch.int64, device="cpu")
        words.random_(-(2**63), None, generator=generator)
        levels = words.view(torch.int16)[: part.numel()]
        part.copy_(levels).add_(0.5).mul_(2.0**-15)


_FILLS = {"normal": _fill_normal, "uniform": _fill_uniform}


@functools.lru_cache(maxsize=1)
def _threads(process: int, num: int) -> ThreadPoolExecutor:
    """Threads of this process; those of a parent do not live on in a fork."""
    del process
    return ThreadPoolExecutor(num, thread_name_prefix="feedalign")


def _fill_signs(drawn: Tensor, generator: Generator) -> None:
    """-1 and 1 from the bits of random words: 30 times as fast as one draw for each."""
    size = drawn.numel()
    words = torch.empty(-(-size // 32), dtype=torch.int64, device="cpu").random_(generator=generator)
    bits = words.to(torch.int32).unsqueeze(1) << torch.arange(32, dtype=torch.int32, device="cpu")
    signs = bits.bitwise_and_(_SIGN).bitwise_or_(_ONE).view(torch.float32).flatten()[:size]
    drawn.view(-1).copy_(signs)


def _drawn_on_device(like: Tensor, num: int, clock: Tensor, stream: int, kind: str, rank: int) -> Tensor:
    """Counter-based numbers: the clock is read on the device."""
    shape, clock = (num, *like.shape), clock.to(like.device)
    # Place and rank go into the seed, so that no place draws at one forward what another did at the one before.
    seed, place = clock[0] ^ (mixed(stream, rank) >> 2), 2 * clock[1]
    size = (math.prod(shape),)
    first = counter_uniform(size, seed, place)
    if kind == "uniform":
        return first.to(like.dtype).reshape(shape)
    if kind == "rademacher":
        return torch.where(first < 0, -1.0, 1.0).to(like.dtype).reshape(shape)
    radius = (-2 * ((1 + first) / 2).clamp_(min=2**-25).log_()).sqrt_()
    angle = math.pi * counter_uniform(size, seed, place + 1)
    return (radius * angle.cos_()).to(like.dtype).reshape(shape)
