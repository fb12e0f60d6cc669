"""Linear hidden layers, weights of zero, one example: DRTP's signals are exactly parallel to backprop's from step K on.

K counts the layers, the output's among them, and t the updates made so far. The lemma of Frenkel, Lefebvre & Bol 2021
(Supplementary Note 1) says that all weights stay of rank one, so that a handful of numbers tells all that happens in
training. `by_hand` follows those numbers alone, with neither matrices nor autograd; the attached rule is compared with
it. In print the statements hold for t > 0. They hold from t = K: layer k has no input but zero before t = k - 1, so no
weight before t = k, and backprop's signal, which passes the layers above, is zero until the last of them has one.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa

Array = NDArray[np.float64]

NUM_INPUTS, NUM_CLASSES, LABEL, NUM_STEPS = 9, 5, 3, 11
HIDDEN = (8, 4, 11, 6)
EXACT = 1e-10


@dataclass(frozen=True)
class Example:
    """One example and a network of K linear layers for it."""

    num_layers: int = 3
    loss: str = "cross_entropy"
    seed: int = 0
    with_biases: bool = False
    start: str = "zero"
    rate: float = 0.04
    nonlinearity: str = "linear"

    @property
    def widths(self) -> tuple[int, ...]:
        return (NUM_INPUTS, *HIDDEN[: self.num_layers - 1], NUM_CLASSES)

    @property
    def scale(self) -> float:
        """The factor of the error at the output: the mean of a binary cross-entropy divides by C."""
        return 1.0 if self.loss == "cross_entropy" else 1 / NUM_CLASSES

    def draw(self) -> tuple[Array, list[Array]]:
        """The example `[D]` and the feedback of each hidden layer `[C, n_k]`."""
        generator = np.random.default_rng(self.seed)
        x = generator.standard_normal(NUM_INPUTS)
        return x, [generator.uniform(-1, 1, (NUM_CLASSES, width)) for width in self.widths[1:-1]]

    def model(self) -> nn.Sequential:
        model = nn.Sequential()
        for number, (narrow, wide) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True), start=1):
            layer = nn.Linear(narrow, wide, bias=self.with_biases).double()
            model.add_module(f"fc{number}", layer)
            if self.nonlinearity == "tanh" and number < self.num_layers:
                model.add_module(f"act{number}", nn.Tanh())
        generator = torch.Generator().manual_seed(self.seed)
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
            if self.start == "random":
                nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
        return model

    def points(self) -> list[str]:
        name = "fc" if self.nonlinearity == "linear" else "act"
        return [f"{name}{number}" for number in range(1, self.num_layers)]

    def loss_of(self, output: Tensor) -> Tensor:
        if self.loss == "cross_entropy":
            return F.cross_entropy(output, torch.tensor([LABEL]))
        return F.binary_cross_entropy_with_logits(output, F.one_hot(torch.tensor([LABEL]), NUM_CLASSES).double())


@dataclass(frozen=True)
class Moment:
    """What the network is after some updates; hidden layers in order."""

    weights: list[Array]
    rule: list[Array]
    backprop: list[Array]
    error: Array = field(default_factory=lambda: np.empty(0))


@lru_cache
def trained(example: Example, streaming: bool = False) -> tuple[Moment, ...]:
    """The attached rule at work: weights and both rules' signals after 0, 1, 2, ... updates."""
    x, feedback = example.draw()
    inputs, model = torch.from_numpy(x)[None], example.model()
    given = {point: torch.from_numpy(matrix) for point, matrix in zip(example.points(), feedback, strict=True)}
    link = "softmax" if example.loss == "cross_entropy" else "sigmoid"
    rule = fa.DRTP(link=link, allow_unbounded=True)
    handle = fa.attach(model, rule, points=example.points(), feedback=given, example_inputs=inputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=example.rate)
    moments = []
    for _ in range(NUM_STEPS):
        with handle.suspended():
            backprop = signals(model, example, inputs)
        if streaming:
            handle.targets(torch.tensor([LABEL]), scale=example.scale)
        by_rule = signals(model, example, inputs)
        weights = [p.detach().numpy().copy() for name, p in model.named_parameters() if name.endswith("weight")]
        moments.append(Moment(weights, by_rule, backprop))
        optimizer.step()
    return tuple(moments)


def signals(model: nn.Sequential, example: Example, inputs: Tensor) -> list[Array]:
    """One forward and backward; the gradients that arrive at the feedback points."""
    arrived: dict[str, Array] = {}

    def watch(name: str) -> object:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            output.register_hook(lambda grad: arrived.__setitem__(name, grad[0].numpy().copy()))

        return model.get_submodule(name).register_forward_hook(hook, prepend=True)

    hooks = [watch(name) for name in example.points()]
    model.zero_grad()
    example.loss_of(model(inputs)).backward()
    for hook in hooks:
        hook.remove()
    return [arrived[name] for name in example.points()]


def by_hand(example: Example) -> Iterator[Moment]:
    """The lemma's recursion: numbers s_W (one for each hidden layer), s_y, and a vector for the output layer."""
    x, feedback = example.draw()
    rows = [matrix[LABEL] for matrix in feedback]  # B_k^T y*
    of_weights, of_output = np.zeros(len(rows)), np.zeros(NUM_CLASSES)
    target = np.eye(NUM_CLASSES)[LABEL]
    for _ in range(NUM_STEPS):
        of_states = np.zeros(len(rows))
        below = x @ x
        for k, row in enumerate(rows):
            of_states[k] = of_weights[k] * below
            below = of_states[k] * (row @ row)
        prediction = predict(example, of_output * below)
        yield said(example, x, rows, of_weights, of_output, prediction - target)
        of_weights = of_weights + example.rate * example.scale * np.concatenate([[1.0], of_states[:-1]])
        of_output = of_output + example.rate * example.scale * of_states[-1] * (target - prediction)


def predict(example: Example, z: Array) -> Array:
    if example.loss == "cross_entropy":
        return np.exp(z) / np.exp(z).sum()
    return 1 / (1 + np.exp(-z))


def said(example: Example, x: Array, rows: list[Array], of_weights: Array, of_output: Array, error: Array) -> Moment:
    """Weights and signals that the lemma's numbers stand for."""
    below = [x, *rows]
    weights = [s * np.outer(row, low) for s, row, low in zip(of_weights, rows, below, strict=False)]
    weights.append(np.outer(of_output, rows[-1]))
    factor, backprop = example.scale * (of_output @ error), []
    for k in reversed(range(len(rows))):
        backprop.insert(0, factor * rows[k])
        factor *= of_weights[k] * (rows[k] @ rows[k])
    return Moment(weights, [-example.scale * row for row in rows], backprop, error)


def assert_same(found: list[Array], expected: list[Array]) -> None:
    """Equal to ten digits of the largest entry, array by array.

    An error p - 1 of a confident prediction has fewer digits, in torch and here: it is compared as if it were 1e-5.
    """
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=EXACT * max(float(np.abs(other).max()), 1e-5))


def turned(one: Array, other: Array) -> float:
    """Sine of the angle between two vectors; exact where they are almost parallel."""
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return float(np.linalg.norm(one - (one @ other) * other))


def cosine(one: Array, other: Array) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


examples = pytest.mark.parametrize(
    "example",
    [
        Example(num_layers, loss, seed, rate=rate)
        for num_layers in (2, 3, 4, 5)
        for loss, rate, seed in (("cross_entropy", 0.04, 0), ("binary_cross_entropy", 0.2, 1))
    ],
    ids=lambda example: f"{example.num_layers} layers, {example.loss}, seed {example.seed}",
)


@pytest.mark.parametrize("streaming", [False, True], ids=["from the error", "streaming"])
@examples
def test_the_attached_rule_follows_the_lemma(example: Example, streaming: bool) -> None:
    for found, expected in zip(trained(example, streaming), by_hand(example), strict=True):
        assert_same(found.weights, expected.weights)
        assert_same(found.rule, expected.rule)
        assert_same(found.backprop, expected.backprop)


@examples
def test_signals_are_parallel_from_step_k_on_and_backprop_has_none_before(example: Example) -> None:
    for step, moment in enumerate(trained(example)):
        for rule, backprop in zip(moment.rule, moment.backprop, strict=True):
            assert np.linalg.norm(rule) > 0
            assert (np.linalg.norm(backprop) > 0) == (step >= example.num_layers)
            if step >= example.num_layers:
                assert turned(rule, backprop) < EXACT
                assert cosine(rule, backprop) > 0


@examples
def test_the_rules_signal_is_a_positive_multiple_of_the_pseudo_inverse_of_the_path_times_the_error(
    example: Example,
) -> None:
    """The theorem itself, in the sign of Algorithm 1, with the product of weights as it is in the attached model."""
    for step, (found, expected) in enumerate(zip(trained(example), by_hand(example), strict=True)):
        path = np.eye(NUM_CLASSES)
        for weight, rule in zip(found.weights[:0:-1], found.rule[::-1], strict=True):
            path = path @ weight
            if step < example.num_layers:
                assert not path.any()
            else:
                inverse = np.linalg.pinv(path, rcond=1e-8) @ expected.error
                assert turned(rule, inverse) < EXACT
                assert cosine(rule, inverse) > 0


@pytest.mark.parametrize("num_layers", [2, 3, 4, 5])
def test_with_biases_two_updates_are_enough_at_any_depth(num_layers: int) -> None:
    """The paper leaves biases out "without loss of generality"; they give every layer an input after one update."""
    for step, moment in enumerate(trained(Example(num_layers, with_biases=True))):
        if float(np.linalg.norm(moment.backprop[0])) < 1e-200:  # nothing yet; or nothing left to learn
            assert step < 2 or step > num_layers
            continue
        assert step >= 2
        assert all(turned(*pair) < EXACT for pair in zip(moment.rule, moment.backprop, strict=True))


@pytest.mark.parametrize(
    "control", [{"start": "random", "rate": 0.02}, {"nonlinearity": "tanh", "rate": 0.3}], ids=["random start", "tanh"]
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_without_its_conditions_the_statement_is_false(control: dict[str, Any], seed: int) -> None:
    moments = trained(Example(3, seed=seed, **control))[3:]
    apart = [turned(*pair) for moment in moments for pair in zip(moment.rule, moment.backprop, strict=True)]
    assert max(apart) > 0.01


def test_from_a_random_start_signals_may_point_away_from_backprops() -> None:
    first = [trained(Example(3, seed=seed, start="random"))[0] for seed in range(8)]
    cosines = [cosine(*pair) for moment in first for pair in zip(moment.rule, moment.backprop, strict=True)]
    assert min(cosines) < 0 < max(cosines)


def test_several_examples_are_not_covered_by_the_statement() -> None:
    """Two examples of different classes: what each of them writes into the weights turns the signals of the other."""
    example = Example(3, rate=0.1)
    x, feedback = example.draw()
    inputs = torch.from_numpy(np.stack([x, np.roll(x, 1)]))
    labels = torch.tensor([LABEL, 0])
    model = example.model()
    given = {point: torch.from_numpy(matrix) for point, matrix in zip(example.points(), feedback, strict=True)}
    rule = fa.DRTP(allow_unbounded=True)
    fa.attach(model, rule, points=example.points(), feedback=given, example_inputs=inputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=example.rate)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    assert fa.measure.alignment(model, F.cross_entropy, (inputs, labels)).layers[0].signal > 1
