"""Products of stacked matrices: large ones on a CPU one by one through oneDNN, the rest as torch does them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Multiply-adds of one product from which its own call costs less than it saves.
_ENOUGH = 2**20


def pays_alone(left: Tensor, right: Tensor) -> bool:
    """Whether a product of stacks is better made matrix by matrix, each through oneDNN.

    Torch hands single-precision products on a CPU to its BLAS, which is MKL in its own builds. oneDNN, which is in the
    same builds, uses the wide registers of every maker's processors: nearly twice as fast on some, and as fast on the
    others.

    Args:
        left: [K, M, J].
        right: [K, J, N].
    """
    is_plain = left.device.type == "cpu" and left.dtype == right.dtype == torch.float32
    size = left.shape[1] * left.shape[2] * right.shape[2]
    return is_plain and size >= _ENOUGH and _is_built_in()


def _is_built_in() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(left: Tensor, right_transposed: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(left, right_transposed, bias, activation, [], "")
    return made


def one_by_one(left: Tensor, right: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """The products of two stacks of matrices, each pair through oneDNN.

    Args:
        left: [K, M, J].
        right: [K, J, N].
        bias: Added to every row, [K, N]; None for none.
        activation: What each sum goes through: "none", "tanh", "sigmoid" or "relu".

    Returns:
        [K, M, N].
    """
    made = left.new_empty(left.shape[0], left.shape[1], right.shape[2])
    biases = [None] * len(made) if bias is None else bias.unbind()
    for one, other, added, place in zip(left.unbind(), right.mT.unbind(), biases, made.unbind(), strict=True):
        place.copy_(_product(one, other, added, activation))
    return made


@dataclass(frozen=True)
class Unmade:
    """A product of stacks of which each matrix is made when it is asked for, and need not be held with the others.

    Attributes:
        left: [M, J] of each trial.
        right: The transposed [J, N] of each trial.
    """

    left: Sequence[Tensor]
    right: Sequence[Tensor]

    def __getitem__(self, number: int) -> Tensor:
        """The product of one trial, [M, N]."""
        return _product(self.left[number], self.right[number])


def unmade(left: Tensor, right: Tensor) -> Unmade:
    """Put a product off.

    Args:
        left: [K, M, J].
        right: [K, J, N].

    Returns:
        What makes each of the K products.
    """
    return Unmade(left.unbind(), right.mT.unbind())
