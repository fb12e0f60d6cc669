"""The networks: what they consist of, what teaches each layer, and every gradient of DFA by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scene_by_hand import Array, FieldByHand, march_by_hand, march_gradient
from torch import Tensor

import feedalign as fa
from feedalign_lab.scenes.fields import Field, FieldShape, Radiance
from feedalign_lab.scenes.networks import Network, network_of
from feedalign_lab.scenes.rays import Rays
from feedalign_lab.scenes.renderer import Renderer
from feedalign_lab.scenes.trial import attach_rule

TINY = FieldShape(width=6, num_layers=2, skips=(), sees_directions=False, point_frequencies=2)
WHOLE = FieldShape(width=6, num_layers=4, skips=(2,), point_frequencies=2, direction_frequencies=1)


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    # 595,844 is what other implementations of the original network have.
    [("nerf", 2 * 595_844), ("nerf-dual", 2 * 595_844), ("nerf-tiny", 63 * 128 + 128 + 128 * 128 + 128 + 128 * 4 + 4)],
)
def test_sizes_of_the_networks(name: str, num_parameters: int) -> None:
    network = network_of(name)
    model = Radiance(network.coarse, network.fine)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_xl_widens_the_fine_network_alone() -> None:
    network = network_of("nerf-xl")
    model = Radiance(network.coarse, network.fine)
    assert model.coarse is not None
    assert model.coarse.feature.weight.shape == (256, 256)
    assert model.fine.feature.weight.shape == (512, 512)


@pytest.mark.parametrize("shape", [TINY, WHOLE], ids=["tiny", "whole"])
def test_nothing_goes_around_the_rule(shape: FieldShape) -> None:
    field = Field(shape)
    inputs = field.inputs(torch.zeros(1, 3, 3), torch.ones(1, 3))
    found = fa.check(field, inputs)
    assert found.ok
    assert [row.through for row in found.layers if row.points] == [()] * len(
        [row for row in found.layers if row.points]
    )
    handle = attach_rule(field, fa.DFA(), torch.Generator().manual_seed(0))
    field(*inputs).sum().backward()
    rows = {row.layer: row for row in handle.describe().rows}
    heads = {"output"} if shape is TINY else {"colour", "density"}
    assert set(rows) == {name.removesuffix(".weight") for name, _ in field.named_parameters() if "weight" in name}
    assert all((row.signal == "error") == (name in heads) for name, row in rows.items())
    assert all(row.signal == "dfa: e B" and row.fired for name, row in rows.items() if name not in heads)


@dataclass
class Case:
    """A ray bundle before a field in double precision."""

    field: Field
    handle: fa.Handle
    rays: Rays
    depths: Tensor
    truth: Tensor
    background: float | None
    by_hand: FieldByHand

    def loss(self) -> Tensor:
        network = Network(fine=self.field.shape, coarse=None, num_even=self.depths.shape[1], num_drawn=0)
        renderer = Renderer(_around(self.field), network, 2.0, 6.0, self.background)
        colours = renderer.shade(self.field, self.rays, self.depths).colours
        return (colours - self.truth).square().mean()

    def gradients_by_hand(self, feedback: dict[str, Array]) -> dict[str, Array]:
        return self.by_hand.dfa(self.error_by_hand(), feedback)

    def error_by_hand(self) -> Array:
        """The gradient of the mean squared error with respect to the field's output, `[R * S, 4]`."""
        points = (self.rays.origins[:, None] + self.depths[..., None] * self.rays.directions[:, None]).flatten(0, 1)
        inputs = [one.numpy() for one in self.field.inputs(points.view(*self.depths.shape, 3), self.rays.looks)]
        raw = self.by_hand.forward(inputs[0], inputs[1] if len(inputs) > 1 else None)
        raw = raw.reshape(*self.depths.shape, 4)
        errors = []
        for ray in range(len(raw)):
            at = self.depths[ray].numpy()
            length = float(self.rays.directions[ray].norm())
            colour, _ = march_by_hand(raw[ray], at, length, self.background or 0.0)
            wanted = 2 * (colour - self.truth[ray].numpy()) / self.truth.numel()
            errors.append(march_gradient(raw[ray], at, length, self.background or 0.0, wanted))
        return np.concatenate(errors)


def _around(field: Field) -> Radiance:
    radiance = Radiance(None, field.shape)
    radiance.fine = field
    return radiance


def _case(shape: FieldShape, rule: fa.Rule, background: float | None) -> Case:
    draws = torch.Generator().manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        field = Field(shape).double()
    handle = attach_rule(field, rule, torch.Generator().manual_seed(2))
    directions = torch.randn(3, 3, dtype=torch.float64, generator=draws)
    rays = Rays(torch.randn(3, 3, dtype=torch.float64, generator=draws), directions, directions / 2)
    depths = 2 + torch.rand(3, 5, dtype=torch.float64, generator=draws).cumsum(1)
    truth = torch.rand(3, 3, dtype=torch.float64, generator=draws)
    weights = {name: parameter.detach().numpy() for name, parameter in field.named_parameters()}
    return Case(field, handle, rays, depths, truth, background, FieldByHand(weights, shape.num_layers, shape.skips))


@pytest.fixture(params=[(TINY, 1.0), (WHOLE, 1.0), (WHOLE, None)], ids=["tiny", "whole", "whole-black"])
def under_dfa(request: pytest.FixtureRequest) -> Case:
    shape, background = request.param
    return _case(shape, fa.DFA(), background)


def _feedback(case: Case) -> dict[str, Array]:
    """By the layer that is taught: as many columns of the one matrix as the layer has units."""
    (matrix,) = case.handle.store.buffers()
    return {layer: matrix[:, : case.field.get_submodule(layer).out_features].numpy() for layer in case.handle.points}


def test_every_gradient_of_dfa_by_hand(under_dfa: Case) -> None:
    case = under_dfa
    case.loss().backward()
    by_hand = case.gradients_by_hand(_feedback(case))
    found = {name: parameter.grad for name, parameter in case.field.named_parameters()}
    assert set(found) == set(by_hand)
    for name, gradient in found.items():
        assert gradient is not None
        np.testing.assert_allclose(gradient, by_hand[name], atol=1e-10, err_msg=name)
        assert float(gradient.abs().max()) > 0, name


def test_one_matrix_serves_all_layers(under_dfa: Case) -> None:
    (matrix,) = under_dfa.handle.store.buffers()
    assert matrix.shape == (4, 6)
    # U(+-1) over the square root of the largest width, as in the paper's code.
    assert 0.5 < float(matrix.abs().max()) * 6**0.5 <= 1


@pytest.mark.parametrize("shape", [TINY, WHOLE], ids=["tiny", "whole"])
def test_shallow_teaches_the_output_alone(shape: FieldShape) -> None:
    case = _case(shape, fa.Shallow(), 1.0)
    case.loss().backward()
    by_hand = case.gradients_by_hand({})
    for name, parameter in case.field.named_parameters():
        if name in by_hand:
            np.testing.assert_allclose(parameter.grad, by_hand[name], atol=1e-10)
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("shape", [TINY, WHOLE], ids=["tiny", "whole"])
def test_backprop_is_plain_autograd(shape: FieldShape) -> None:
    case = _case(shape, fa.Backprop(), 1.0)
    case.loss().backward()
    found = {name: parameter.grad for name, parameter in case.field.named_parameters()}
    case.handle.remove()
    case.field.zero_grad()
    case.loss().backward()
    for name, parameter in case.field.named_parameters():
        assert found[name] is not None
        torch.testing.assert_close(found[name], parameter.grad, atol=0, rtol=0)
