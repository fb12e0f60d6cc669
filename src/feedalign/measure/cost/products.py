"""The products that a forward is made of: which operations multiply and add, on what operands, and how often."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Operand = int | None
"""Place of a tensor among an operation's arguments, lists opened, which is its edge in the graph; None: made inside."""


@dataclass(frozen=True)
class Term:
    """One product of an operation.

    Attributes:
        macs: Multiplications with an addition each.
        left: One operand.
        right: The other.
        inner: How many of them multiply what the operation has made inside, of a side that is None; None: all. The
            first state of a recurrent layer is given, so that it has neither gradient nor tangent.
    """

    macs: int
    left: Operand
    right: Operand
    inner: int | None = None

    def along(self, side: Operand) -> int:
        """Return the products that make the gradient, or push the tangent, of one side."""
        return self.macs if side is not None or self.inner is None else self.inner


Formula = Callable[[Sequence[Any], Any], tuple[Term, ...]]


def _of_matrices(left: int, right: int) -> Formula:
    """Matrices, perhaps many: each number of the result is a sum over the left one's last size."""

    def formula(args: Sequence[Any], out: Any) -> tuple[Term, ...]:
        return (Term(out.numel() * args[left].shape[-1], left, right),)

    return formula


def _of_vectors(args: Sequence[Any], _: Any) -> tuple[Term, ...]:
    return (Term(args[0].numel(), 0, 1),)


def _added_up(args: Sequence[Any], out: Any) -> tuple[Term, ...]:
    """Products of many pairs of matrices, summed over the pairs."""
    return (Term(out.numel() * args[1].shape[0] * args[1].shape[2], 1, 2),)


def _convolution(args: Sequence[Any], out: Any) -> tuple[Term, ...]:
    """Each number of the result (of the input, where transposed) meets one filter of `[out, in / groups, ...]`."""
    source, weight, is_transposed = args[0], args[1], args[6]
    met = source if is_transposed else out
    return (Term(met.numel() * math.prod(weight.shape[1:]), 0, 1),)


def _attention(args: Sequence[Any], _: Any) -> tuple[Term, ...]:
    """Queries with keys, then weights with values; masked positions count as the others."""
    query, key, value = args[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return Term(pairs * query.shape[-1], 0, 1), Term(pairs * value.shape[-1], None, 2)


def _fused_lstm(args: Sequence[Any], _: Any) -> tuple[Term, ...]:
    """A whole layer of oneDNN's, steps first: all inputs with one matrix, each state with the other."""
    rows, num_steps = math.prod(args[0].shape[:2]), args[0].shape[0]
    of_states = rows * args[2].numel()
    return Term(rows * args[1].numel(), 0, 1), Term(of_states, None, 2, of_states - of_states // num_steps)


def _cudnn_recurrent(args: Sequence[Any], _: Any) -> tuple[Term, ...]:
    """A whole module of cuDNN's: the matrices of all layers and directions in one list, with their biases."""
    rows, weights, num_each, num_layers = math.prod(args[0].shape[:-1]), args[1], args[2], args[9]
    of_first_layer, num_steps = len(weights) // num_layers, args[0].shape[1 if args[10] else 0]
    terms = []
    for place, weight in enumerate(weights):
        macs = rows * weight.numel()
        if place % num_each == 0:
            terms.append(Term(macs, 0 if place < of_first_layer else None, 1 + place))
        elif place % num_each == 1:
            terms.append(Term(macs, None, 1 + place, macs - macs // num_steps))
    return tuple(terms)


def _trilinear(args: Sequence[Any], out: Any) -> tuple[Term, ...]:
    """`nn.Bilinear`: one input with the weight, and what comes of it with the other input."""
    first, weight, second = args[:3]
    rows = math.prod(first.shape[:-1])
    return Term(rows * weight.numel(), 0, 1), Term(out.numel() * second.shape[-1], None, 2)


_FLASH = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
FORMULAS: dict[str, Formula] = {
    "mm": _of_matrices(0, 1),
    "bmm": _of_matrices(0, 1),
    "mv": _of_matrices(0, 1),
    "addmm": _of_matrices(1, 2),
    "baddbmm": _of_matrices(1, 2),
    "addmv": _of_matrices(1, 2),
    "addbmm": _added_up,
    "dot": _of_vectors,
    "convolution": _convolution,
    "mkldnn_rnn_layer": _fused_lstm,
    "_cudnn_rnn": _cudnn_recurrent,
    "_trilinear": _trilinear,
    **dict.fromkeys(_FLASH, _attention),
}
"""How the products of each operation are counted, by its name in torch's `aten`."""

# Their backward makes the scores again instead of keeping them.
MAKE_SCORES_AGAIN = frozenset(_FLASH)

# Words in the names of operations that are made of products. Those of cells only add up what products have made.
_PRODUCT_WORDS = {"mm", "bmm", "addmm", "matmul", "conv", "convolution", "attention", "rnn", "lstm", "gru", "linear"}
_BACKWARDS = {"convolution_backward"}
_NO_PRODUCTS = {"_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "linalg_vector_norm"}
_KNOWN_NAMESPACES = {"aten", "prim", "prims", "profiler", "feedalign"}


def is_uncounted(namespace: str, name: str) -> bool:
    """Tell whether an operation is, or may be, made of products that no formula here counts.

    Args:
        namespace: Of the operation; all but torch's own, and ours that draws, may do anything.
        name: Of the operation.
    """
    if namespace not in _KNOWN_NAMESPACES:
        return True
    words = set(name.strip("_").split("_"))
    return bool(words & _PRODUCT_WORDS) and name not in FORMULAS and name not in _NO_PRODUCTS | _BACKWARDS


class Products(TorchDispatchMode):
    """Sees every operation that runs while it is on, and reports those made of products to `found`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it was."""
        del types
        out = func(*args, **(kwargs or {}))
        # An operation in place multiplies as the one that is not.
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in FORMULAS:
            self.found(name, FORMULAS[name](args, out), _opened(args), out)
        elif name in _BACKWARDS:
            self.found(name, _gradients_of_convolution(args), args, out)
        elif is_uncounted(func.namespace, name):
            self.missed(f"{func.namespace}::{name}")
        return out

    def found(self, name: str, terms: tuple[Term, ...], args: Sequence[Any], out: Any) -> None:
        """Called for every operation that is made of products.

        Args:
            name: Of the operation.
            terms: Its products.
            args: Its arguments, lists opened.
            out: What it returned.
        """

    def missed(self, name: str) -> None:
        """Called for an operation whose products are not counted.

        Args:
            name: Of the operation, with its namespace.
        """


def _opened(args: Sequence[Any]) -> list[Any]:
    """Arguments with lists of tensors opened."""
    opened: list[Any] = []
    for arg in args:
        opened += arg if isinstance(arg, (list, tuple)) else [arg]
    return opened


def _gradients_of_convolution(args: Sequence[Any]) -> tuple[Term, ...]:
    """Gradients of input and weight, those that are asked for; each takes as many products as the convolution."""
    grad, source, weight, is_transposed, wanted = args[0], args[1], args[2], args[7], args[10]
    macs = (source if is_transposed else grad).numel() * math.prod(weight.shape[1:])
    return tuple(Term(macs, 0, other) for other, is_wanted in ((2, wanted[0]), (1, wanted[1])) if is_wanted)


def num_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def storage_of(tensor: Tensor) -> int:
    """What tells a tensor's memory from that of others, as long as it is held."""
    found: int = tensor.untyped_storage()._cdata
    return found
