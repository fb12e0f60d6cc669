"""Random architectures and rules: gradients by hand, an exact output layer, and removal without a trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import feedalign as fa
from attach.model_state import assert_same_state, state_of
from feedalign.rules import LayerwiseRule, LearnedRule, WeightRule
from integration.by_hand import gradients_by_hand
from integration.gradients import (
    PERTURBING,
    assert_same_gradients,
    direct_feedback,
    draws_recorded,
    gradients,
    layerwise_feedback,
    numbered_gradients,
    step,
)

ACTIVATIONS: list[type[nn.Module]] = [nn.Tanh, nn.Sigmoid, nn.Softsign, nn.Hardtanh, nn.ReLU, nn.GELU, nn.ELU]
RULES: list[fa.Rule] = [rule() for rule in fa.ALL_RULES if rule is not fa.DRTP]
RULES += [fa.DRTP(allow_unbounded=True), fa.FDFA(num_perturbations=2), fa.WeightPerturbed(num_perturbations=2)]


@dataclass(frozen=True)
class Architecture:
    """What a random model is made of; lists have one entry for each hidden layer."""

    widths: list[int]
    activations: list[type[nn.Module]]
    is_shared: bool
    has_skips: list[bool]
    dropouts: list[float]
    is_frozen: list[bool]
    has_biases: bool
    has_functions: bool
    num_classes: int
    num_samples: int
    seed: int


class RandomModel(nn.Module):
    """Hidden layers with skips from one activation to the next where widths allow."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        sizes = [4, *architecture.widths]
        kinds = architecture.activations[:1] * len(sizes) if architecture.is_shared else architecture.activations
        only = kinds[0]()
        with torch.random.fork_rng():
            torch.manual_seed(architecture.seed)
            for i in range(len(sizes) - 1):
                layer = nn.Linear(sizes[i], sizes[i + 1], bias=architecture.has_biases)
                layer.requires_grad_(not architecture.is_frozen[i])
                self.add_module(f"fc{i}", layer)
                self.add_module(f"drop{i}", nn.Dropout(architecture.dropouts[i]))
                if not architecture.is_shared:
                    self.add_module(f"act{i}", kinds[i]())
            if architecture.is_shared:
                self.act0 = only
            self.head = nn.Linear(sizes[-1], architecture.num_classes, bias=architecture.has_biases)

    def forward(self, x: Tensor) -> Tensor:
        parts = dict(self.named_children())
        for i, has_skip in enumerate(self.architecture.has_skips):
            activation = parts["act0" if self.architecture.is_shared else f"act{i}"]
            z = parts[f"drop{i}"](activation(parts[f"fc{i}"](x)))
            x = x + z if has_skip and i > 0 and x.shape == z.shape else z
        y = self.head(x)
        return y * 1.0 if self.architecture.has_functions else y

    @property
    def points(self) -> list[str]:
        """Names of the activation modules."""
        return [name for name, _ in self.named_children() if name.startswith("act")]


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """At most four hidden layers, not all of them frozen."""
    depth = draw(st.integers(1, 4))

    def each(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
        return st.lists(strategy, min_size=depth, max_size=depth)

    return Architecture(
        widths=draw(each(st.sampled_from([3, 3, 5]))),
        activations=draw(each(st.sampled_from(ACTIVATIONS))),
        is_shared=draw(st.booleans()),
        has_skips=draw(each(st.booleans())),
        dropouts=draw(each(st.sampled_from([0.0, 0.0, 0.3]))),
        is_frozen=draw(each(st.booleans()).filter(lambda frozen: not all(frozen))),
        has_biases=draw(st.booleans()),
        has_functions=draw(st.booleans()),
        num_classes=draw(st.integers(2, 4)),
        num_samples=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 1000)),
    )


def same_dropout(run: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return run()


def feedback_of(model: nn.Module) -> Mapping[str, Tensor] | list[Tensor]:
    if not isinstance(fa.handle_of(model).rules[0], LayerwiseRule):
        return direct_feedback(model)
    return layerwise_feedback(model, [module for module in model.modules() if isinstance(module, nn.Linear)])


def data_for(architecture: Architecture) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(architecture.seed)
    x = torch.randn(architecture.num_samples, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(architecture.num_classes, (architecture.num_samples,), generator=generator)


def attached_or_rejected(model: nn.Module, rule: fa.Rule, x: Tensor, **options: Any) -> fa.Handle:
    """Local heads need a hidden layer below the last, several perturbations tangents by hand."""
    if isinstance(rule, LearnedRule):
        options["feedback"] = fa.KaimingUniform()
    try:
        return fa.attach(model, rule, example_inputs=x, **options)
    except fa.errors.AttachError as error:
        if not any(
            words in str(error) for words in ("LocalGreedy puts a head", "needs tangents that are carried by hand")
        ):
            raise
        reject()


@settings(max_examples=120)
@given(architecture=architectures(), rule=st.sampled_from(RULES))
def test_any_architecture_under_any_rule(architecture: Architecture, rule: fa.Rule) -> None:
    x, y = data_for(architecture)
    model, plain = (RandomModel(architecture).double() for _ in range(2))
    before = state_of(model)
    with attached_or_rejected(model, rule, x, strict=True) as handle:
        with draws_recorded() as drawn:
            same_dropout(lambda: step(model, x, y))
        found = numbered_gradients(model)
        feedback = feedback_of(model)
        expected = same_dropout(lambda: gradients_by_hand(plain, rule, feedback, x, y, plain.points, drawn))
        assert all(row.fired is not False for row in handle.describe().rows)
    same_dropout(lambda: step(plain, x, y))

    assert all(grad is None or grad.isfinite().all() for grad in found.values())
    assert_same_gradients(found, expected, tolerance=1e-12)
    if not isinstance(rule, WeightRule):
        assert torch.equal(found["head.weight"], plain.head.weight.grad), "the output layer learns as in backprop"
    model.zero_grad()
    assert_same_state(state_of(model), before)
    same_dropout(lambda: step(model, x, y))
    assert_same_gradients(gradients(model), gradients(plain), tolerance=0)


@settings(max_examples=60)
@given(architecture=architectures(), rule=st.sampled_from(PERTURBING))
def test_tangents_by_hand_and_as_dual_tensors_agree(architecture: Architecture, rule: fa.Rule) -> None:
    architecture = replace(architecture, has_skips=[False] * len(architecture.has_skips))
    x, y = data_for(architecture)
    found = []
    for has_functions in (False, True):
        model = RandomModel(replace(architecture, has_functions=has_functions)).double()
        handle = attached_or_rejected(model, rule, x)
        assert handle.uses_dual_tensors == has_functions
        for _ in range(2):
            same_dropout(lambda model=model: step(model, x, y))
        found.append(gradients(model))
    assert_same_gradients(*found, tolerance=1e-12)
