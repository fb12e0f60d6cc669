"""The limits in which a rule is exactly backprop, or learns exactly the Jacobian, on any architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.rules.forward_gradient import SlopeRule
from integration.by_hand import activations
from integration.gradients import Gradients, assert_same_gradients, draws_given, draws_recorded, own_gradients, step
from integration.random_models import Architecture, RandomModel, data_for

TOLERANCE = 1e-9
_MOST_DIRECTIONS = 160


def limit_of(rule: fa.Rule) -> Callable[[Architecture, fa.Rule], bool] | None:
    """What shows a rule in its limit; returns whether the architecture has one. None: the rule has none."""
    if isinstance(rule, fa.Backprop):
        return backprop_is_backprop
    if isinstance(rule, fa.FA):
        return transposed_weights_give_backprop
    if type(rule) is fa.DFA:
        return jacobians_of_a_linear_net_give_backprop
    if isinstance(rule, fa.FDFA) and rule.update == "adam":
        return a_basis_gives_the_jacobian
    if isinstance(rule, (SlopeRule, fa.WeightPerturbed)) and not isinstance(rule, fa.LocalGreedy):
        return a_basis_gives_backprop
    return None


def backprop_is_backprop(architecture: Architecture, rule: fa.Rule) -> bool:
    """Bit for bit."""
    assert_same_gradients(_step(architecture, rule), _plain(architecture), tolerance=0)
    return True


def transposed_weights_give_backprop(architecture: Architecture, rule: fa.Rule) -> bool:
    """FA with B = W^T."""
    model, (x, _) = RandomModel(architecture), data_for(architecture)
    handle = fa.attach(model, rule, example_inputs=x)
    for name in model.layers:
        held = dict(handle.store.named_buffers()).get(name.replace(".", "_"))
        if held is not None:
            held.copy_(model.get_submodule(name).weight.detach())
    assert_same_gradients(_gradients(model, architecture), _plain(architecture), TOLERANCE)
    return True


def jacobians_of_a_linear_net_give_backprop(architecture: Architecture, rule: fa.Rule) -> bool:
    """DFA with B_l = dy/dh_l, where no non-linearity and no normalization stands in between."""
    # Not around a point that returns what it was given: there the two are one tensor, which is refused.
    skips = [replace(block, skip="none") if block.skip == "around" else block for block in architecture.blocks]
    blocks = tuple(
        replace(block, activation=fa.FeedbackPoint, norm="none", dropout=0.0, changes_in_place=False) for block in skips
    )
    architecture = replace(architecture, blocks=blocks, cell="none")
    model, (x, _) = RandomModel(architecture), data_for(architecture)
    try:
        with fa.attach(model, rule, example_inputs=x) as handle:
            taught = {row.point for row in handle.describe().rows}
    except fa.errors.NoFeedbackPointError:
        # Without normalization all that is left below the points may be frozen.
        return False
    with activations(plain := RandomModel(architecture), plain.points, cut=False) as taps:
        output = plain(x)
    # The first sample, and its first token: the same for all others.
    rows = output[:1].reshape(-1, architecture.num_classes)[0]
    found = {name: torch.stack([_derivative(row, tap) for row in rows]) for name, tap in taps.items()}
    feedback = {label_of(name): matrix for name, matrix in found.items() if label_of(name) in taught}
    fa.attach(model, rule, example_inputs=x, feedback=feedback)
    assert_same_gradients(_gradients(model, architecture), _plain(architecture), TOLERANCE)
    return True


def label_of(key: str) -> str:
    """The name of a call of a point: `act0__2` in the store is `act0#2`."""
    return key.replace("__", "#")


def _derivative(output: Tensor, tap: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(output, tap, retain_graph=True)
    return found[0].flatten() if found.dim() != 3 else found[0, 0]


def a_basis_gives_backprop(architecture: Architecture, rule: fa.Rule) -> bool:
    """FG-A and FG-W, the mean over an orthonormal basis of all that they perturb, times its size."""
    if not isinstance(rule, fa.WeightPerturbed) and any(block.norm == "batch" for block in architecture.blocks):
        return False  # samples see each other's perturbations
    if (model := _with_basis(architecture, rule)) is None:
        return False
    assert_same_gradients(own_gradients(model), _plain(architecture), TOLERANCE)
    return True


def a_basis_gives_the_jacobian(architecture: Architecture, rule: fa.Rule) -> bool:
    """FDFA over a basis: the gradient of B is B less the mean Jacobian, so that B = 0 gets it with the other sign."""
    is_full = architecture.inputs != "tokens"
    if not is_full or any(block.norm == "batch" for block in architecture.blocks):
        return False
    if (model := _with_basis(architecture, rule)) is None:
        return False
    plain, (x, _) = RandomModel(architecture), data_for(architecture)
    with _same_dropout(), activations(plain, plain.points, cut=False) as taps:
        output = plain(x)
    store = fa.handle_of(model).store
    for name, held in store.named_parameters():
        by_class = [torch.autograd.grad(output[:, c].sum(), taps[name], retain_graph=True)[0] for c in range(len(held))]
        jacobian = torch.stack([found.flatten(1).mean(0) for found in by_class])
        assert held.grad is not None
        torch.testing.assert_close(held.grad, held.detach() - jacobian, rtol=TOLERANCE, atol=TOLERANCE)
    return True


def _with_basis(architecture: Architecture, rule: fa.Rule) -> nn.Module | None:
    """A model whose gradients were made with every direction of a basis; None where there are too many."""
    model, (x, _) = RandomModel(architecture), data_for(architecture)
    with fa.attach(model, rule, example_inputs=x) as handle:
        if handle.uses_dual_tensors:
            return None
        with draws_recorded() as drawn:
            _gradients(model, architecture)
    has_samples = not isinstance(rule, fa.WeightPerturbed)
    shapes = [one.shape[2:] if has_samples else one.shape[1:] for one in drawn]
    sizes = [shape.numel() for shape in shapes]
    if not sizes or sum(sizes) > _MOST_DIRECTIONS:
        return None
    directions = torch.eye(sum(sizes), dtype=torch.float64) * sum(sizes) ** 0.5
    parts = directions.split(sizes, dim=1)
    made = [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    if has_samples:
        made = [part[:, None].expand(-1, len(x), *part.shape[1:]).contiguous() for part in made]
    model = RandomModel(architecture)
    fa.attach(model, replace(rule, num_perturbations=sum(sizes)), example_inputs=x)
    with draws_given(made):
        _gradients(model, architecture)
    return model


def _step(architecture: Architecture, rule: fa.Rule) -> Gradients:
    model, (x, _) = RandomModel(architecture), data_for(architecture)
    fa.attach(model, rule, example_inputs=x)
    return _gradients(model, architecture)


def _plain(architecture: Architecture) -> Gradients:
    return _gradients(RandomModel(architecture), architecture)


def _gradients(model: nn.Module, architecture: Architecture) -> Gradients:
    with _same_dropout():
        step(model, *data_for(architecture))
    return own_gradients(model)


@contextmanager
def _same_dropout() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield
