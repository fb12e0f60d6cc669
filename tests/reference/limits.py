"""What hardware does to an error on its way, number by number."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def full_scales(matrix: Tensor, full_scale: str | float) -> list[float]:
    """What the outermost level stands for, row by row of `[N, C]`."""
    sizes = [max(abs(number) for number in row) for row in matrix.tolist()]
    if full_scale == "tensor":
        return [max(sizes)] * len(sizes)
    return sizes if full_scale == "row" else [float(full_scale)] * len(sizes)


def _converted(matrix: Tensor, full_scale: str | float, convert: Callable[[float, float, int, int], float]) -> Tensor:
    scales = full_scales(matrix, full_scale)
    rows = [
        [0.0 if scales[n] == 0 else convert(x, scales[n], n, c) for c, x in enumerate(row)]
        for n, row in enumerate(matrix.tolist())
    ]
    return torch.tensor(rows, dtype=torch.float64)


def quantised(matrix: Tensor, bits: int, full_scale: str | float = "tensor", uniform: Tensor | None = None) -> Tensor:
    """The nearest of the levels `-r, ..., -r/L, 0, r/L, ..., r`, L = 2^(bits-1) - 1, found by looking at all of them.

    With `uniform` `[N, C]`: the level above where the number is less than the share of the way to it, else that below.
    """
    num = 2 ** (bits - 1) - 1

    def convert(x: float, r: float, n: int, c: int) -> float:
        levels = [-r, r] if bits == 1 else [r * k / num for k in range(-num, num + 1)]
        if x == 0:
            return 0.0
        if uniform is None:
            return min(levels, key=lambda level: abs(level - x))
        above = min((level for level in levels if level >= x), default=r)
        below = max((level for level in levels if level <= x), default=-r)
        share = 0.0 if above == below else (x - below) / (above - below)
        return above if float(uniform[n, c]) >= 1 - share and share > 0 else below

    def convert_sign(x: float, r: float, n: int, c: int) -> float:
        if x == 0:
            return 0.0
        assert uniform is not None
        return r if float(uniform[n, c]) < (1 + x / r) / 2 else -r

    return _converted(matrix, full_scale, convert_sign if bits == 1 and uniform is not None else convert)


def ternarised(matrix: Tensor, threshold: float, full_scale: str | float = "tensor") -> Tensor:
    """-r, 0 or r."""

    def convert(x: float, r: float, n: int, c: int) -> float:
        del n, c
        return 0.0 if abs(x) <= threshold * r else r if x > 0 else -r

    return _converted(matrix, full_scale, convert)


def received(signal: Tensor, noise: float, normal: Tensor) -> Tensor:
    """The signal and noise in proportion to the root of its mean square over all samples and units."""
    squares = [number * number for row in signal.tolist() for number in row]
    rms = (sum(squares) / len(squares)) ** 0.5
    rows = [
        [s + noise * rms * z for s, z in zip(row, numbers, strict=True)]
        for row, numbers in zip(signal.tolist(), normal.tolist(), strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def late(made: Sequence[Tensor], delay: int) -> list[Tensor]:
    """What arrives at each step, of what each step made: first nothing, then what is `delay` steps old."""
    return [torch.zeros_like(made[0])] * min(delay, len(made)) + list(made[: max(len(made) - delay, 0)])
