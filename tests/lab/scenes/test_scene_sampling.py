"""Depths along rays against their definition, and numpy's inverse of a piecewise linear function."""

import numpy as np
import torch

from feedalign_lab.scenes.sampling import hierarchical, stratified

LIKE = torch.zeros(1, dtype=torch.float64)


def test_without_chance_depths_are_even() -> None:
    depths = stratified(3, 5, 2.0, 6.0, LIKE, None)
    assert depths.tolist() == [[2.0, 3.0, 4.0, 5.0, 6.0]] * 3


def test_each_depth_stays_in_its_stretch_and_fills_it() -> None:
    depths = stratified(4000, 4, 0.0, 3.0, LIKE, torch.Generator().manual_seed(0))
    edges = [0.0, 0.5, 1.5, 2.5, 3.0]
    for number in range(4):
        column, low, high = depths[:, number], edges[number], edges[number + 1]
        assert low <= float(column.min()) < float(column.max()) <= high
        # Three standard errors of the mean of a uniform draw.
        assert abs(float(column.mean()) - (low + high) / 2) < 3 * (high - low) / np.sqrt(12 * 4000)


def test_draws_come_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, other = (stratified(3, 4, 0.0, 1.0, LIKE, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())


def test_quantiles_are_those_of_numpy() -> None:
    depths = torch.tensor([[2.0, 3.0, 4.5, 5.0, 6.0], [2.0, 2.5, 3.0, 3.5, 4.0]], dtype=torch.float64)
    weights = torch.tensor([[0.9, 0.1, 0.6, 0.3, 0.5], [0.2, 0.2, 0.0, 0.2, 0.2]], dtype=torch.float64)
    made = hierarchical(depths, weights, 7, None)
    for ray in range(2):
        edges = (depths[ray, 1:] + depths[ray, :-1]).numpy() / 2
        density = weights[ray, 1:-1].numpy() + 1e-5
        share = np.concatenate([[0], np.cumsum(density / density.sum())])
        drawn = np.interp(np.linspace(0, 1, 7), share, edges)
        np.testing.assert_allclose(made[ray], np.sort([*depths[ray].tolist(), *drawn]), atol=1e-10)


def test_drawn_depths_crowd_where_the_weight_is() -> None:
    depths = torch.linspace(2, 6, 9, dtype=torch.float64).expand(1, 9)
    weights = torch.zeros(1, 9, dtype=torch.float64)
    weights[0, 4] = 1.0
    made = hierarchical(depths, weights, 1000, torch.Generator().manual_seed(0))
    within = ((made > 3.75) & (made < 4.25)).sum()
    assert int(within) > 990


def test_depths_rise_and_carry_no_graph() -> None:
    depths = stratified(5, 6, 2.0, 6.0, LIKE, torch.Generator().manual_seed(1))
    weights = torch.rand(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    made = hierarchical(depths, weights, 4, torch.Generator().manual_seed(3))
    assert made.shape == (5, 10)
    assert not made.requires_grad
    assert bool((made[:, 1:] >= made[:, :-1]).all())


def test_an_empty_ray_is_sampled_evenly() -> None:
    depths = torch.linspace(0, 1, 5, dtype=torch.float64).expand(1, 5)
    made = hierarchical(depths, torch.zeros(1, 5, dtype=torch.float64), 3, None)
    drawn = [value for value in made[0].tolist() if value not in depths[0].tolist()]
    np.testing.assert_allclose([0.125, 0.875], [drawn[0], drawn[-1]], atol=1e-9)
