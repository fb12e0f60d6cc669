"""Functions written down as lists of operations, and the products in them."""

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from feedalign_lab.lockstep.products import Unmade, one_by_one, pays_alone, unmade
from feedalign_lab.lockstep.tracing import binary_cross_entropies, traced

K, N, J, M = 3, 64, 150, 130


def stacks(*shapes: tuple[int, ...]) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=draws) for shape in shapes]


@pytest.mark.parametrize("activation", ["none", "tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_products_one_by_one_are_those_of_torch(activation: str, transposed: bool) -> None:
    left, right, bias = stacks((K, N, J), (K, M, J) if transposed else (K, J, M), (K, M))
    right = right.mT if transposed else right
    assert pays_alone(left, right)
    expected = torch.bmm(left.double(), right.double()) + bias.double().unsqueeze(1)
    expected = expected if activation == "none" else getattr(torch, activation)(expected)
    found = one_by_one(left, right, bias, activation)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_a_product_put_off_is_the_same() -> None:
    left, right = stacks((K, J, N), (K, J, M))
    held = unmade(left.mT, right)
    for number in range(K):
        torch.testing.assert_close(held[number], left[number].T @ right[number], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_and_small_products_are_left_to_torch(dtype: torch.dtype) -> None:
    left, right = stacks((K, N, J), (K, J, M))
    assert not pays_alone(left.to(dtype), right.to(dtype))
    assert not pays_alone(left[:, :4], right)


def test_a_network_and_its_gradients_are_the_same_operations() -> None:
    x, y, weight, bias, head = stacks((K, N, J), (K, N, 10), (K, M, J), (K, M), (K, 10, M))
    y = y.sigmoid()

    def loss(weight: Tensor, bias: Tensor, head: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        output = F.linear(F.linear(x, weight, bias).tanh(), head).sigmoid()
        found = F.binary_cross_entropy(output, y)
        return found, found.detach()

    def of_all(*tensors: Tensor) -> list[Tensor]:
        gradients, losses = vmap(grad(loss, argnums=(0, 1, 2), has_aux=True))(*tensors)
        return [losses, *gradients]

    tensors = (weight, bias, head, x, y)
    written = traced(of_all, tensors, put_off=[1, 2, 3])
    losses, of_weight, of_bias, of_head = written(*tensors)
    expected = of_all(*tensors)
    assert isinstance(of_weight, Unmade)
    of_weight = torch.stack([of_weight[number] for number in range(K)])
    for found, wanted in zip((losses, of_weight, of_bias, of_head), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_what_is_no_number_stays_within_its_trial() -> None:
    output, targets = torch.rand(2, 4, 3), torch.ones(2, 4, 3)
    output[1, 2, 0] = float("nan")
    found = traced(lambda o, t: [vmap(F.binary_cross_entropy)(o, t)], (output[:1].repeat(2, 1, 1), targets))(
        output, targets
    )[0]
    assert found[0] == pytest.approx(float(F.binary_cross_entropy(output[0], targets[0])))
    assert found[1].isnan()


def test_binary_cross_entropy_is_torchs() -> None:
    output = torch.tensor([0.0, 1e-30, 0.3, 0.5, 1.0, 1.0])
    targets = torch.tensor([1.0, 0.0, 0.2, 1.0, 0.0, 1.0])
    expected = F.binary_cross_entropy(output, targets, reduction="none")
    torch.testing.assert_close(binary_cross_entropies(output, targets), expected)
    assert torch.equal(output, torch.tensor([0.0, 1e-30, 0.3, 0.5, 1.0, 1.0]))
