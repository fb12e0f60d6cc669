"""Limits of hardware, simulated: few bits, few levels, noise and delay between the error and the layers it teaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

from feedalign.errors import AttachError

FullScale = Literal["tensor", "row"] | float
Rounding = Literal["nearest", "stochastic"]

_MOST_BITS = 32


@dataclass(frozen=True)
class Converter(ABC):
    """What numbers become on their way into a device that knows a few levels only.

    Args:
        full_scale: The number that the outermost level stands for. `"tensor"`: the largest size of any entry of what is
            converted, the error of a whole batch or a whole matrix. `"row"`: that of each row, the error of a sample
            (or position), a row of a matrix. A number: fixed, in the units of the error as the loss gives it, its 1/N
            and the factor of a GradScaler included; what is larger is cut off. The first two follow any factor on the
            loss, the last does not.
    """

    full_scale: FullScale = field(default="tensor", kw_only=True)

    def __post_init__(self) -> None:
        scale: object = self.full_scale
        is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool) and 0 < scale < float("inf")
        if scale not in ("tensor", "row") and not is_number:
            raise AttachError(
                f"fa.{type(self).__name__}(full_scale={scale!r}): give 'tensor' or 'row', for the largest entry of the "
                "whole tensor or of each row, or a number above 0."
            )

    @property
    def draws(self) -> bool:
        """Whether it rounds at random."""
        return False

    @property
    @abstractmethod
    def words(self) -> str:
        """What it does, for tables."""

    @abstractmethod
    def convert(self, unit: Tensor, uniform: Tensor | None) -> Tensor:
        """Return levels for numbers, both as parts of full scale.

        Args:
            unit: From -1 to 1, `[..., D]`.
            uniform: Numbers from 0 to 1 of the same shape, for converters that draw; None for others.

        Returns:
            From -1 to 1, of the same shape.
        """

    def __call__(self, tensor: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Return a tensor as it arrives, of the same shape and dtype.

        Args:
            tensor: What is sent, `[..., D]`.
            uniform: Numbers from 0 to 1 of the same shape, for converters that draw; None for others.
        """
        if tensor.numel() == 0:
            return tensor
        exact = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        scale = self._full_scale(exact)
        # Where all is zero, nothing is sent: zero over any other number.
        unit = exact / torch.where(scale > 0, scale, torch.ones_like(scale))
        arrives: Tensor = self.convert(unit.clamp(-1, 1), uniform) * scale
        return arrives.to(tensor.dtype)

    def _full_scale(self, tensor: Tensor) -> Tensor:
        if self.full_scale == "tensor":
            return tensor.abs().amax()
        if self.full_scale == "row":
            return tensor.abs().amax(-1, keepdim=True)
        return tensor.new_full((), self.full_scale)


@dataclass(frozen=True)
class Quantized(Converter):
    """Uniform levels, symmetric about zero, one bit of them for the sign.

    With L = 2^(bits - 1) - 1 and full scale r, `x` becomes `round(L x / r) r / L`: 2 L + 1 levels, r and -r among them.
    One bit is the sign, `r sign(x)`, and an exact zero stays zero: a sample of weight zero sends nothing.

    Args:
        bits: From 1 to 32, the sign included.
        rounding: `"nearest"`, half to even; or `"stochastic"`, up or down at odds that make the mean exact. The latter
            draws numbers as perturbations do, from the seed and the count of forwards.
        full_scale: See `Converter`.

    Source: the usual uniform quantiser; none of the papers on these rules prints one.
    """

    bits: int = 4
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        bits: object = self.bits
        if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= _MOST_BITS:
            raise AttachError(f"fa.Quantized(bits={bits!r}): give a whole number from 1 (the sign) to {_MOST_BITS}.")
        if self.rounding not in ("nearest", "stochastic"):
            raise AttachError(f"fa.Quantized(rounding={self.rounding!r}): give 'nearest' or 'stochastic'.")

    @property
    def draws(self) -> bool:
        """Whether it rounds at random."""
        return self.rounding == "stochastic"

    @property
    def words(self) -> str:
        """What it does, for tables."""
        return f"in {self.bits} bit{'s' if self.bits > 1 else ''}"

    def convert(self, unit: Tensor, uniform: Tensor | None) -> Tensor:
        """See `Converter`."""
        if self.bits == 1:
            return unit.sign() if uniform is None else _random_sign(unit, uniform)
        num_steps = 2 ** (self.bits - 1) - 1
        steps = unit * num_steps
        whole = steps.round() if uniform is None else (steps + uniform).floor().clamp(max=num_steps)
        levels: Tensor = whole / num_steps
        return levels


def _random_sign(unit: Tensor, uniform: Tensor) -> Tensor:
    """A sign whose mean is the number; zero for zero."""
    is_up = 2 * uniform < 1 + unit
    signs: Tensor = torch.where(is_up, 1.0, -1.0).to(unit.dtype) * (unit != 0)
    return signs


@dataclass(frozen=True)
class Ternarized(Converter):
    """Three levels, -r, 0 and r: what mirrors show that let light pass or not, in two goes, one for each sign.

    With full scale r, `x` becomes `r sign(x)` where `|x| > threshold * r`, else 0. Photonic co-processors for direct
    feedback alignment are sent such errors ("Light-in-the-loop", reference 31 of Launay et al. 2020; this paper prints
    no threshold itself).

    Args:
        threshold: Share of full scale up to which numbers count as zero, at least 0 and below 1. 0.1 is ours.
        full_scale: See `Converter`.
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        threshold: object = self.threshold
        if not isinstance(threshold, (int, float)) or not 0 <= threshold < 1:
            raise AttachError(f"fa.Ternarized(threshold={threshold!r}): a share of full scale, at least 0, below 1.")

    @property
    def words(self) -> str:
        """What it does, for tables."""
        return f"ternary above {self.threshold:g}"

    def convert(self, unit: Tensor, uniform: Tensor | None) -> Tensor:
        """See `Converter`."""
        del uniform
        levels: Tensor = unit.sign() * (unit.abs() > self.threshold)
        return levels


@dataclass(frozen=True)
class Limits:
    """What hardware does to a direct rule: `fa.DFA(limits=fa.Limits(error=fa.Quantized(bits=4), noise=0.1))`.

    The output layer, which sits where the error is made, keeps the exact error. In the order in which they act:

    * `error`: the vector that is projected is converted. A rule that learns its feedback from the error (`DKP`) sees
      the converted one as well.
    * `feedback`: the matrix is converted whenever it is used; what is held, drawn or learned, stays exact. For fixed
      feedback that is the same as drawing it on those levels.
    * `noise`: what arrives at each point is `S + noise * rms(S) * n`, with n from N(0, 1) for each entry, drawn anew in
      each forward, and rms(S) the root of the mean square over the whole batch at that point: a detector with one gain,
      so that samples of small error drown first. Numbers are a function of the seed, the count of forwards and the
      point, as those of perturbations are: nothing is drawn from the global generator.
    * `delay`: d. A layer keeps what it needs of the step until the error has come, and applies its update then: the
      gradient that a backward pass gives its weights is the one that the backward pass d passes ago would have given;
      so is that of learned feedback. The first d passes give zeros. The error never meets activations of other samples,
      which it says nothing about. A pass is a call of `backward()`: with gradients accumulated over several, the delay
      counts those. Gradients under way are buffers of `handle.store`, part of the `state_dict`, d of them for each
      weight. Momentum and weight decay of the optimizer run on in the meantime. A GradScaler that changes its factor
      finds the old factor in what is under way. Compiled code, `torch.func` and models trained by several processes
      raise `DelayError`.

    Sparse and ternary feedback that is fixed is drawn so: `attach(feedback=fa.Sparse(0.1))`, `fa.Ternary()`.

    Args:
        error: How the projected vector is converted; None: not.
        feedback: How the matrix is converted; None: not. Never at random, since a matrix is written once.
        noise: Standard deviation over rms, at least 0.
        delay: Backward passes, at least 0.
    """

    error: Converter | None = None
    feedback: Converter | None = None
    noise: float = 0.0
    delay: int = 0

    def __post_init__(self) -> None:
        for name in ("error", "feedback"):
            converter: object = getattr(self, name)
            if converter is not None and not isinstance(converter, Converter):
                raise AttachError(
                    f"fa.Limits({name}={converter!r}): give fa.Quantized(bits=...), fa.Ternarized() or None."
                )
        if self.feedback is not None and self.feedback.draws:
            raise AttachError(
                "fa.Limits(feedback=...) is rounded once, as a matrix is written into a device, and not at random at "
                "every use: give fa.Quantized(rounding='nearest')."
            )
        noise: object = self.noise
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or not 0 <= noise < float("inf"):
            raise AttachError(f"fa.Limits(noise={noise!r}): a number of at least 0, the noise over the signal's rms.")
        delay: object = self.delay
        if not isinstance(delay, int) or isinstance(delay, bool) or delay < 0:
            raise AttachError(f"fa.Limits(delay={delay!r}): a whole number of backward passes, at least 0.")

    def __repr__(self) -> str:
        """Only what is limited."""
        given = [f"{f.name}={value!r}" for f in fields(self) if (value := getattr(self, f.name))]
        return f"Limits({', '.join(given)})"

    def given(self) -> dict[str, Any]:
        """Return the limits that are in force, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name))}

    @property
    def draws(self) -> bool:
        """Whether numbers are drawn in every forward."""
        return self.noise > 0 or (self.error is not None and self.error.draws)

    @property
    def mixes_samples(self) -> bool:
        """Whether a sample's signal depends on the others of its batch: by a full scale or a gain that all share."""
        return self.noise > 0 or (self.error is not None and self.error.full_scale == "tensor")

    @property
    def words(self) -> str:
        """What is limited, for tables; empty for nothing."""
        converted = [f"{name} {c.words}" for name in ("error", "feedback") if (c := getattr(self, name)) is not None]
        noise = [f"noise {self.noise:g}"] if self.noise else []
        late = [f"{self.delay} backward{'s' if self.delay > 1 else ''} late"] if self.delay else []
        return ", ".join([*converted, *noise, *late])

    def sent(self, vector: Tensor, uniform: Tensor | None) -> Tensor:
        """Return the vector that is projected, `[..., C]`.

        Args:
            vector: What the rule broadcasts, `[..., C]`.
            uniform: Numbers from 0 to 1 of its shape, where `error` rounds at random.
        """
        return vector if self.error is None else self.error(vector, uniform)

    def used(self, feedback: Tensor) -> Tensor:
        """Return the matrix that is projected with, of what is held, `[C, D]`."""
        return feedback if self.feedback is None else self.feedback(feedback)

    def received(self, signal: Tensor, normal: Tensor) -> Tensor:
        """Return what a point receives.

        Args:
            signal: The projected vector, of the activation's shape.
            normal: Numbers from N(0, 1), of its shape.
        """
        if signal.numel() == 0:
            return signal
        exact = signal.to(torch.promote_types(signal.dtype, torch.float32))
        return (exact + self.noise * exact.square().mean().sqrt() * normal).to(signal.dtype)


UNLIMITED = Limits()
"""Exact, noiseless and at once."""
