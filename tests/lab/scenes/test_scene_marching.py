"""Ray marching and its gradient against a loop over samples."""

import numpy as np
import pytest
import torch
from scene_by_hand import march_by_hand, march_gradient

from feedalign_lab.scenes.marching import march


@pytest.fixture
def rays() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 6, 4, dtype=torch.float64, generator=draws)
    depths = 2 + torch.rand(4, 6, dtype=torch.float64, generator=draws).cumsum(1)
    lengths = 1 + torch.rand(4, dtype=torch.float64, generator=draws)
    return raw, depths, lengths


@pytest.mark.parametrize("background", [None, 1.0])
def test_colours_and_weights_by_hand(
    rays: tuple[torch.Tensor, torch.Tensor, torch.Tensor], background: float | None
) -> None:
    raw, depths, lengths = rays
    made = march(raw, depths, lengths, background)
    for ray in range(4):
        colour, weights = march_by_hand(raw[ray].numpy(), depths[ray].numpy(), float(lengths[ray]), background or 0.0)
        np.testing.assert_allclose(made.colours[ray], colour, atol=1e-12)
        np.testing.assert_allclose(made.weights[ray], weights, atol=1e-12)
        np.testing.assert_allclose(made.opacity[ray], weights.sum(), atol=1e-12)


@pytest.mark.parametrize("background", [None, 1.0])
def test_the_gradient_by_hand(rays: tuple[torch.Tensor, torch.Tensor, torch.Tensor], background: float | None) -> None:
    raw, depths, lengths = rays
    raw.requires_grad_()
    wanted = torch.tensor([0.3, -1.2, 0.5], dtype=torch.float64)
    (march(raw, depths, lengths, background).colours @ wanted).sum().backward()
    assert raw.grad is not None
    for ray in range(4):
        by_hand = march_gradient(
            raw[ray].detach().numpy(), depths[ray].numpy(), float(lengths[ray]), background or 0.0, wanted.numpy()
        )
        np.testing.assert_allclose(raw.grad[ray], by_hand, atol=1e-12)


def test_nothing_shows_the_background_and_a_wall_its_colour() -> None:
    depths = torch.linspace(2, 6, 5).expand(2, 5)
    raw = torch.zeros(2, 5, 4)
    raw[0, :, 3] = -1.0
    raw[1, 2, 3] = 1e6
    raw[1, 2, :3] = torch.tensor([20.0, -20.0, 0.0])
    made = march(raw, depths, torch.ones(2), 1.0)
    assert made.colours[0].tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(made.colours[1], torch.tensor([1.0, 0.0, 0.5]))
    assert made.weights[1].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]


def test_noise_is_added_to_densities_before_the_rectifier() -> None:
    depths = torch.linspace(2, 6, 3).expand(1, 3)
    raw = torch.full((1, 3, 4), -1.0)
    without = march(raw, depths, torch.ones(1), None)
    withal = march(raw, depths, torch.ones(1), None, noise=torch.tensor([[0.0, 3.0, 0.0]]))
    assert float(without.opacity) == 0.0
    assert float(withal.weights[0, 1]) == pytest.approx(1 - np.exp(-4.0), abs=1e-6)
