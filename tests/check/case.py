"""What a model that `check` is tried on consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa

_DFA = fa.DFA()


def _itself(returned: Any) -> Tensor:
    return returned


@dataclass(frozen=True)
class Case:
    """An architecture with the arguments under which a rule can be attached.

    Attributes:
        name: For the name of the test.
        make: Makes the model; weights depend on the seed alone.
        inputs: Makes example inputs.
        options: `output=` and `points=`, where a rule needs them.
        error_at: Picks the tensor at which the error is taken out of what the model returns.
        rule: The rule.
        has_bare_products: Some layers are no modules of their own, or their modules are not called.
        leaks: Some layers that exact backprop reaches around the default points, by hand; empty: none at all.
        stays: All of them that no other points cut, by hand, since no module returns what is to be cut.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)
    error_at: Callable[[Any], Tensor] = _itself
    rule: fa.Rule = _DFA
    has_bare_products: bool = False
    leaks: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()

    def model(self) -> nn.Module:
        """The model, in training mode, always with the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make()

    def batch(self) -> Any:
        """Example inputs, always the same."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return self.inputs()

    def __str__(self) -> str:
        return self.name
