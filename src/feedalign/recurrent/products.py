"""Matrix products of many rows, as fast as the machine makes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.recurrent.in_place import is_plain

# torch hands float32 products to MKL, and convolutions to oneDNN. A convolution of size 1 over an image whose pixels
# are the rows is the same product. On processors where MKL keeps to narrow vectors it takes half the time, but for the
# sums over fewer rows than these; and below so many multiplications its calls cost more than they save.
_MIN_MULTIPLICATIONS = 1 << 24
_MIN_ROWS_OF_SUM = 400


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `rows @ weight^T + bias`.

    Args:
        rows: `[R, K]`.
        weight: `[C, K]`.
        bias: `[C]`, or None.
    """
    if not convolves(rows, weight.shape[0]):
        return F.linear(rows, weight, bias)
    made = F.conv2d(_image(rows), weight[:, :, None, None], bias)
    return made.permute(0, 2, 3, 1).reshape(rows.shape[0], -1)


def add_product(total: Tensor, rows: Tensor, weight: Tensor) -> Tensor:
    """Add `rows @ weight^T` in place.

    Args:
        total: `[R, C]`, to which it is added.
        rows: `[R, K]`.
        weight: `[C, K]`.
    """
    if not convolves(rows, weight.shape[0]):
        return total.addmm_(rows, weight.t())
    return total.add_(product(rows, weight))


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
        return total.addmm_(delta.t(), rows)
    weight = rows.new_empty(1).expand(*total.shape, 1, 1)  # of it, only the shape is read
    options = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    made = torch.ops.aten.convolution_backward(_image(delta), _image(rows), weight, *options)
    return total.add_(made[1][:, :, 0, 0])


def convolves(rows: Tensor, num_columns: int) -> bool:
    """Whether a product of rows `[R, K]` to `[R, num_columns]` is made by a convolution."""
    if rows.dtype != torch.float32 or rows.shape[0] * rows.shape[1] * num_columns < _MIN_MULTIPLICATIONS:
        return False
    has_fast_convolution = rows.device.type == "cpu" and torch.backends.mkldnn.is_available()
    # With one thread torch takes another kernel.
    return has_fast_convolution and torch.get_num_threads() > 1 and is_plain(rows)


def _image(rows: Tensor) -> Tensor:
    """Rows `[R, K]` as an image of K channels and R pixels, channels last: no number moves."""
    return rows[None, :, None].permute(0, 3, 1, 2)
