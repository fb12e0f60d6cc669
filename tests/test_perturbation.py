"""Perturbations: a pure function of seed, counter and place, with the moments that rules count on."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from feedalign.perturbation import (
    _BLOCK,
    _ENOUGH_BLOCKS,
    _drawn_on_device,
    magnitude,
    mixed,
    perturbation,
    perturbations,
)

DISTRIBUTIONS = ("normal", "rademacher", "uniform")
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)
Draw = Callable[[Tensor, int, Tensor, int, str], Tensor]


def clock(seed: int = 5, counter: int = 1) -> Tensor:
    return torch.tensor([seed, counter])


def on_device(like: Tensor, num: int, at: Tensor, stream: int, distribution: str) -> Tensor:
    """What other devices than the CPU draw, drawn here."""
    return _drawn_on_device(like, num, at, stream, distribution, 0)


every_draw = pytest.mark.parametrize("draw", [perturbation, on_device])
LIKE = torch.empty(40, 50)


@every_draw
@every_distribution
def test_the_same_clock_and_place_give_the_same_numbers(draw: Draw, distribution: str) -> None:
    drawn = draw(LIKE, 3, clock(), 1, distribution)
    assert drawn.shape == (3, 40, 50)
    assert torch.equal(draw(LIKE, 3, clock(), 1, distribution), drawn)


@every_draw
@every_distribution
def test_numbers_do_not_depend_on_what_is_perturbed(draw: Draw, distribution: str) -> None:
    other = torch.full_like(LIKE, float("nan")).requires_grad_()
    drawn = draw(other, 1, clock(), 1, distribution)
    assert torch.equal(drawn, draw(LIKE, 1, clock(), 1, distribution))
    assert not drawn.requires_grad
    strided = torch.empty(50, 40).T
    assert torch.equal(draw(strided, 1, clock(), 1, distribution), drawn)
    assert draw(strided, 1, clock(), 1, distribution).is_contiguous()


def correlation(one: Tensor, other: Tensor) -> float:
    """In standard errors."""
    return float((one * other).mean()) * one.numel() ** 0.5


# Neighbours and far ones; 4096 and 8192 are where places and counters of other devices are joined to one number.
OTHERS = [
    *[(clock(5, counter), 1) for counter in (0, 2, 3, 2**20, 2**33)],
    *[(clock(seed), 1) for seed in (0, 4, 6, 2**31, 2**32 + 5, 2**61)],
    *[(clock(), stream) for stream in (0, 2, 3, 2048, 2049, 4095, 4097)],
]


@every_draw
@every_distribution
@pytest.mark.parametrize(("at", "stream"), OTHERS, ids=lambda value: str(value))
def test_another_clock_or_place_gives_numbers_without_correlation(
    draw: Draw, distribution: str, at: Tensor, stream: int
) -> None:
    """Within 5 standard errors, also with the numbers moved by one and between their squares."""
    like = torch.empty(20_000)
    one, other = draw(like, 1, clock(), 1, distribution)[0], draw(like, 1, at, stream, distribution)[0]
    assert abs(correlation(one, other)) < 5
    assert abs(correlation(one[1:], other[:-1])) < 5
    if distribution == "normal":
        assert abs(correlation(one**2 - 1, other**2 - 1)) / 2 < 5


@every_draw
def test_no_place_at_one_forward_has_the_numbers_of_another_place_at_the_next(draw: Draw) -> None:
    """Models of a batch that share a clock draw at places 4096 apart; a large model has as many parameters."""
    places = [model * 4096 + place for model in range(4) for place in (0, 1, 2, 2047, 2048, 2049, 4095)]
    drawn = [draw(torch.empty(8), 1, clock(5, counter), place, "normal") for counter in range(4) for place in places]
    assert len({tuple(numbers.flatten().tolist()) for numbers in drawn}) == len(drawn)


@every_draw
@every_distribution
def test_numbers_of_one_draw_have_no_correlation(draw: Draw, distribution: str) -> None:
    rows = draw(torch.empty(100, 200), 2, clock(), 1, distribution)
    for one, other in (
        (rows[0], rows[1]),
        (rows[:, 1:], rows[:, :-1]),
        (rows[..., 1:], rows[..., :-1]),
        (rows[..., 32:], rows[..., :-32]),
        (rows[..., 64:], rows[..., :-64]),
    ):
        assert abs(correlation(one, other)) < 5


@every_draw
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_normal_numbers_have_the_moments_of_the_normal_distribution(draw: Draw, dtype: torch.dtype) -> None:
    """Within 5 standard errors: of z^p they are sqrt(Var[z^p] / n); bfloat16 rounds to 3 digits."""
    drawn = draw(torch.empty(500, 400, dtype=dtype), 1, clock(), 1, "normal")
    assert drawn.dtype == dtype
    assert bool(drawn.isfinite().all())
    z = drawn.double()
    rounding = 2e-3 if dtype == torch.bfloat16 else 0.0
    for power, (mean, variance) in {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10170)}.items():
        allowed = 5 * (variance / z.numel()) ** 0.5 + rounding * mean * power
        assert abs(float((z**power).mean()) - mean) < allowed, power
    for limit, probability in ((0.5, 0.38292), (1.0, 0.68269), (2.0, 0.95450), (3.0, 0.99730)):
        found = float((z.abs() < limit).double().mean())
        assert abs(found - probability) < 5 * (probability * (1 - probability) / z.numel()) ** 0.5 + rounding


@every_draw
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_uniform_numbers_have_the_moments_of_their_distribution(draw: Draw, dtype: torch.dtype) -> None:
    """Within 5 standard errors; their largest gap to the law (Kolmogorov-Smirnov) exceeds 2.2 with chance 1e-4."""
    drawn = draw(torch.empty(500, 400, dtype=dtype), 1, clock(), 1, "uniform")
    assert drawn.dtype == dtype
    x = drawn.double().flatten()
    assert float(x.abs().max()) <= 1
    rounding = 2e-3 if dtype == torch.bfloat16 else 0.0
    for power, (mean, variance) in {1: (0, 1 / 3), 2: (1 / 3, 4 / 45), 4: (1 / 5, 16 / 225)}.items():
        assert abs(float((x**power).mean()) - mean) < 5 * (variance / x.numel()) ** 0.5 + rounding, power
    law = (x.sort().values + 1) / 2
    gap = (law - torch.linspace(0, 1, x.numel(), dtype=torch.float64)).abs().max()
    assert float(gap) < 2.2 / x.numel() ** 0.5 + rounding


def test_uniform_numbers_fill_all_their_levels_about_zero_and_leave_it_out() -> None:
    """Of 2^16 levels, 64 draws for each miss one with chance 2^16 exp(-64)."""
    drawn = perturbation(torch.empty(2**22), 1, clock(), 1, "uniform")
    levels, counts = drawn.mul(2.0**15).add(0.5).unique(return_counts=True)
    assert torch.equal(levels, torch.arange(-(2**15) + 1, 2**15 + 1, dtype=torch.float32))
    assert float(counts.double().var()) < 64 * 1.1


@every_distribution
@pytest.mark.parametrize("width", [3, 2**9], ids=["one thread", "threads"])
def test_tensors_drawn_together_have_the_numbers_of_each_alone(distribution: str, width: int) -> None:
    likes = [torch.empty(_ENOUGH_BLOCKS, width), torch.empty(0), torch.empty(width, width, dtype=torch.float64)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = perturbations(likes, 8, clock(), 5, distribution)
    finally:
        torch.set_num_threads(threads)
    alone = [perturbation(like, 8, clock(), place, distribution) for place, like in enumerate(likes, 5)]
    assert all(map(torch.equal, together, alone))
    assert [drawn.dtype for drawn in together] == [like.dtype for like in likes]


@every_distribution
def test_numbers_do_not_depend_on_the_default_device_nor_on_the_company(distribution: str) -> None:
    alone = perturbation(LIKE, 2, clock(), 5, distribution)
    torch.set_default_device("meta")
    try:
        elsewhere = perturbation(LIKE, 2, torch.tensor([5, 1], device="cpu"), 5, distribution)
    finally:
        torch.set_default_device(None)
    assert torch.equal(elsewhere, alone)
    together = perturbations([LIKE, LIKE.to("meta")], 2, clock(), 5, distribution)
    assert torch.equal(together[0], alone)
    assert (together[1].device.type, together[1].shape) == ("meta", alone.shape)


def test_magnitudes_are_those_of_torchs_own_weights_and_the_same_for_all_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = torch.empty(40, 3, 5, 5, dtype=torch.float64)
    drawn = magnitude(weight, clock(), 7)
    assert (drawn.shape, drawn.dtype) == (weight.shape, weight.dtype)
    assert 0.99 / 75**0.5 < float(drawn.abs().max()) <= 1 / 75**0.5
    apart = perturbation(weight, 1, clock(), 7, "normal")
    monkeypatch.setattr("feedalign.perturbation._rank", lambda: 1)
    assert torch.equal(magnitude(weight, clock(), 7), drawn)
    assert not torch.equal(perturbation(weight, 1, clock(), 7, "normal"), apart)


@every_draw
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 200_000])
def test_signs_are_exactly_one_and_balanced(draw: Draw, dtype: torch.dtype, size: int) -> None:
    drawn = draw(torch.empty(size, dtype=dtype), 1, clock(), 1, "rademacher")
    assert drawn.dtype == dtype
    assert drawn.shape == (1, size)
    assert bool((drawn.abs() == 1).all())
    assert abs(float(drawn.double().sum())) < 5 * size**0.5


@every_draw
def test_signs_are_balanced_at_every_bit_of_a_word(draw: Draw) -> None:
    columns = draw(torch.empty(10_000, 32), 1, clock(), 1, "rademacher")[0].double().mean(0)
    assert bool((columns.abs() < 5 / 10_000**0.5).all())


@every_draw
@every_distribution
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (2, 3, 4)])
def test_every_shape_is_drawn(draw: Draw, distribution: str, shape: tuple[int, ...]) -> None:
    assert draw(torch.empty(shape), 2, clock(), 1, distribution).shape == (2, *shape)


@every_draw
@every_distribution
def test_the_global_random_state_is_neither_read_nor_moved(draw: Draw, distribution: str) -> None:
    before = torch.get_rng_state()
    first = draw(LIKE, 1, clock(), 1, distribution)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(77)
        assert torch.equal(draw(LIKE, 1, clock(), 1, distribution), first)


@every_draw
@every_distribution
def test_the_clock_is_left_as_it_was(draw: Draw, distribution: str) -> None:
    at = clock()
    draw(LIKE, 1, at, 1, distribution)
    assert torch.equal(at, clock())


@every_draw
@every_distribution
def test_numbers_do_not_depend_on_the_number_of_threads(draw: Draw, distribution: str) -> None:
    like, threads, found = torch.empty(3, _BLOCK + 7), torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(draw(like, 1, clock(), 1, distribution))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted where Linux lists them")
@every_distribution
def test_threads_that_draw_have_no_threads_of_torchs_own(distribution: str) -> None:
    """With more of these than cores torch's own operations take longer, as long as the process runs."""
    num_before, threads = len(os.listdir("/proc/self/task")), torch.get_num_threads()
    try:
        torch.set_num_threads(5)
        perturbation(torch.empty(_ENOUGH_BLOCKS, _BLOCK), 1, clock(), 1, distribution)
    finally:
        torch.set_num_threads(threads)
    # At most five that draw, and torch's four beside this one.
    assert len(os.listdir("/proc/self/task")) <= num_before + 5 + 4


@every_draw
def test_blocks_of_a_large_tensor_have_no_correlation(draw: Draw) -> None:
    """Nor do the ends of blocks differ from the rest: the last one is shorter than the others."""
    drawn = draw(torch.empty(3 * _BLOCK + 20), 1, clock(), 1, "normal")[0]
    one, two, three, rest = drawn.split(_BLOCK)
    for other in (two, three):
        assert abs(correlation(one, other)) < 5
        assert abs(correlation(one**2 - 1, other**2 - 1)) / 2 < 5
    assert bool((rest.abs() > 0.01).any())
    assert abs(float(drawn.var()) - 1) < 5 * (2 / drawn.numel()) ** 0.5


@every_distribution
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_compiled_code_draws_the_same_numbers(distribution: str, dtype: torch.dtype) -> None:
    # Dynamo makes eight versions of a function at most, whatever test asked for them.
    torch.compiler.reset()

    def step(like: Tensor, at: Tensor) -> Tensor:
        return 2 * perturbation(like, 2, at, 3, distribution)

    like = torch.empty(4, 5, dtype=dtype)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for counter in (1, 2):
        assert torch.equal(compiled(like, clock(5, counter)), step(like, clock(5, counter)))
    assert not torch.equal(compiled(like, clock(5, 1)), compiled(like, clock(5, 2)))


@every_distribution
def test_models_of_a_batch_with_their_own_clocks_draw_what_each_would_draw_alone(distribution: str) -> None:
    likes, clocks = torch.empty(3, 4, 5), torch.stack([clock(seed) for seed in (1, 2, 3)])
    drawn = torch.vmap(lambda like, at: perturbation(like, 2, at, 1, distribution))(likes, clocks)
    expected = torch.stack([perturbation(likes[0], 2, at, 1, distribution) for at in clocks])
    assert torch.equal(drawn, expected)


@every_distribution
@pytest.mark.parametrize("in_dims", [(1, 1), (2, 0), (None, 0), (None, 1), (0, None), (1, None)], ids=str)
def test_a_batch_of_models_may_lie_along_any_axis(distribution: str, in_dims: tuple[int | None, int | None]) -> None:
    """Models that share a clock and differ in what is perturbed have numbers of their own too."""
    like_dim, clock_dim = in_dims
    like = torch.empty(4, 5) if like_dim is None else torch.empty(3, 4, 5).movedim(0, like_dim)
    clocks = torch.stack([clock(seed) for seed in (1, 2, 3)])
    at = clock() if clock_dim is None else clocks.movedim(0, clock_dim)
    drawn = torch.vmap(lambda x, c: perturbation(x, 2, c, 1, distribution), in_dims=in_dims)(like, at)
    assert drawn.shape == (3, 2, 4, 5)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    if clock_dim is not None:
        alone = torch.stack([perturbation(torch.empty(4, 5), 2, c, 1, distribution) for c in clocks])
        assert torch.equal(drawn, alone)


@every_distribution
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_finds_the_operation_in_order(distribution: str, dtype: torch.dtype) -> None:
    arguments = (torch.empty(3, 4, dtype=dtype), 2, clock(), 1, distribution, 0)
    torch.library.opcheck(torch.ops.feedalign.perturbation.default, arguments)


def test_mixed_numbers_differ_for_neighbours_and_in_every_bit() -> None:
    """Of 64 bits 32 are flipped by a change of one, within 5 standard errors of a fair coin at every bit."""
    numbers = [mixed(seed, counter, stream) for seed in range(12) for counter in range(12) for stream in range(12)]
    assert len(set(numbers)) == 12**3
    assert mixed(1, 2) != mixed(2, 1)
    flips = torch.tensor([[(mixed(s, 1) ^ mixed(s + 1, 1)) >> bit & 1 for bit in range(64)] for s in range(1000)])
    assert bool(((flips.double().mean(0) - 0.5).abs() < 5 * 0.5 / 1000**0.5).all())
