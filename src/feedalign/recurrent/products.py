"""Matrix products of many rows, as fast as the machine makes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.in_place import is_plain

# torch hands float32 products to MKL, and convolutions to oneDNN. A convolution of size 1 over an image whose pixels
# are the rows is the same product. On processors where MKL keeps to narrow vectors it takes half the time, but for the
# sums over fewer rows than these; and below so many multiplications its calls cost more than they save.
_MIN_MULTIPLICATIONS = 1 << 24
_MIN_ROWS_OF_SUM = 400
# A product with fewer columns is faster as one with so few rows.
_MIN_COLUMNS = 64


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `rows @ weight^T + bias`.

    Args:
        rows: `[R, K]`.
        weight: `[C, K]`.
        bias: `[C]`, or None.
    """
    if rows.shape[1] == 1 and is_plain(rows):
        return rows * weight.t() if bias is None else torch.addcmul(bias, rows, weight.t())
    if not convolves(rows, weight.shape[0]):
        return F.linear(rows, weight, bias)
    made = F.conv2d(_image(rows), weight[:, :, None, None], bias)
    return made.permute(0, 2, 3, 1).reshape(rows.shape[0], -1)


def adding(weight: Tensor, num_rows: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what adds `rows @ weight^T` to its first argument in place, and returns that; for many calls.

    Args:
        weight: `[C, K]`.
        num_rows: How many rows a call has, at most.
    """
    columns = weight.t()
    if weight.shape[1] == 1:
        return lambda total, rows: total.addcmul_(rows, columns)
    if convolves(weight, num_rows):
        return lambda total, rows: total.add_(product(rows, weight))
    return lambda total, rows: total.addmm_(rows, columns)


def add_product(total: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Add `rows @ weight^T` in place.

    Args:
        total: `[R, C]`, to which it is added.
        rows: `[R, K]`.
        weight: `[C, K]`.
    """
    return adding(weight, rows.shape[0])(total, rows)


def add_sum(total: Tensor, delta: Tensor, rows: Tensor) -> Tensor:
    """Return `total + delta^T @ rows`, the gradient of a weight; made in place where that can be.

    Args:
        total: `[C, K]`.
        delta: `[R, C]`.
        rows: `[R, K]`.
    """
    if not is_plain(delta):
        return total + delta.t() @ rows
    if rows.shape[0] < _MIN_ROWS_OF_SUM or not convolves(rows, delta.shape[1]):
        narrow = rows.shape[1] < _MIN_COLUMNS
        return total.add_((rows.t() @ delta).t()) if narrow else total.addmm_(delta.t(), rows)
    weight = rows.new_empty(1).expand(*total.shape, 1, 1)  # of it, only the shape is read
    options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    made = torch.ops.aten.convolution_backward(_image(delta), _image(rows), weight, *options)
    return total.add_(made[1][:, :, 0, 0])


def convolves(factor: Tensor, other_size: int) -> bool:
    """Whether a product is made by a convolution.

    Args:
        factor: One of its factors.
        other_size: The size of the other that this one has not.
    """
    if factor.dtype != torch.float32 or factor.numel() * other_size < _MIN_MULTIPLICATIONS:
        return False
    has_fast_convolution = factor.device.type == "cpu" and torch.backends.mkldnn.is_available()
    # With one thread torch takes another kernel.
    return has_fast_convolution and torch.get_num_threads() > 1 and is_plain(factor)


def _image(rows: Tensor) -> Tensor:
    """Rows `[R, K]` as an image of K channels and R pixels, channels last: no number moves."""
    return rows[None, :, None].permute(0, 3, 1, 2)
