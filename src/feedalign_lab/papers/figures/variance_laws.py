"""How the variance of gradient estimates grows with the rate of the feedback, and with the size of a network.

The variance is that of one entry of the hidden layer's weight gradient over the perturbations, for one example, as in
Propositions 2, 5 and 6 of Bacho & Chu 2024: averaged over the entries of the weight, in a network of one hidden layer.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.rules import Rule
from feedalign_lab import data
from feedalign_lab.papers.figures.drawing import Check, Drawing, Panel, Series
from feedalign_lab.papers.figures.figure import CheckMaker, Made, Run
from feedalign_lab.papers.figures.fits import PowerLaw, power_law
from feedalign_lab.seeding import generator

DATA = "mnist"
NUM_CLASSES = 10
_Y_LABEL = "variance of one entry of the hidden gradient"
_HIDDEN, _POINT = "hidden", "relu"
_STANDARD_ERRORS = 2.0
_SLACK_OF_SLOPE = 0.1

ONE_STEP = "one step from the converged feedback"
RUNNING = "average that runs on"
EXPECTED = "\N{GREEK SMALL LETTER ALPHA} / (2 - \N{GREEK SMALL LETTER ALPHA}), through the last point"
RATES = "FDFA"


@dataclass(frozen=True, eq=False)
class Example:
    """One image with its class.

    Attributes:
        x: `[1, D]`.
        y: `[1]`.
        number: Of the example, which decides the weights that it meets.
    """

    x: Tensor
    y: Tensor
    number: int


@dataclass(frozen=True)
class RateLaw:
    """Variance of FDFA against the rate of its feedback's average.

    Attributes:
        rates: The rates, above 0 and at most 1.
        width: Hidden units.
        num_draws: Perturbations per example, or steps of the running average.
        runs_on_from: Rates below this one are left out for the running average, which is the slower the lower they are.
    """

    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    width: int = 100
    num_draws: int = 100
    runs_on_from: float = 0.01

    def make(self, run: Run) -> Made:
        """Measure; see `Recipe`."""
        examples = examples_of(run.size.trials)
        slow = tuple(rate for rate in self.rates if rate >= self.runs_on_from)
        one_step = self._measured(run, ONE_STEP, self.rates, self._one_step, examples)
        running = self._measured(run, RUNNING, slow, self._running, examples)
        expected = tuple(running.mean[-1] * rate / (2 - rate) * (2 - slow[-1]) / slow[-1] for rate in slow)
        series = (*with_fit(one_step), running, Series(EXPECTED, slow, expected, style="fit"))
        panel = Panel(
            RATES, "rate \N{GREEK SMALL LETTER ALPHA} of the feedback's average", _Y_LABEL, series, "log", "log"
        )
        return Made((panel,), run.size)

    def _measured(
        self,
        run: Run,
        name: str,
        rates: Sequence[float],
        measure: Callable[[Example, float], float],
        examples: Sequence[Example],
    ) -> Series:
        values = []
        for place, rate in enumerate(rates):
            run.tell(f"variance of FDFA, {name}", place / len(rates))
            values.append([measure(example, rate) for example in examples])
        return points_of(name, rates, values)

    def _one_step(self, example: Example, rate: float) -> float:
        """Feedback set to the output's weight, then averaged with one estimate; again and again."""
        model = two_layers(example, self.width)
        rule = fa.FDFA(update="ema", rate=rate, projects="new")
        handle = attached(model, rule, example)
        _converge(handle, model)
        # Draws of their own at every rate: with the same, the law would hold to the last digit.
        return variance_of_entry(model, example, self.num_draws, seed=round(1e6 * rate))

    def _running(self, example: Example, rate: float) -> float:
        """Feedback that goes on averaging; the mean is backprop's gradient, so only the square of the rest is left."""
        model = two_layers(example, self.width)
        rule = fa.FDFA(update="ema", rate=rate, projects="new")
        handle = attached(model, rule, example)
        _converge(handle, model)
        weight = model.get_submodule(_HIDDEN).get_parameter("weight")
        with handle.suspended():
            exact = _gradient(model, weight, example)
        num_before = math.ceil(3 / rate)
        squares = []
        for step in range(num_before + self.num_draws):
            found = _gradient(model, weight, example)
            if step >= num_before:
                squares.append(float((found - exact).square().mean()))
        return statistics.fmean(squares)


@dataclass(frozen=True)
class SizeLaw:
    """Variance of forward gradients against the numbers of inputs and of hidden units.

    Attributes:
        copies: How often each pixel stands in the input.
        widths: Hidden units.
        num_draws: Perturbations per example.
    """

    copies: tuple[int, ...] = (1, 2, 4, 8)
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    num_draws: int = 64

    def make(self, run: Run) -> Made:
        """Measure; see `Recipe`."""
        examples = examples_of(run.size.trials)
        rules: tuple[tuple[str, Rule], ...] = (("fg-w", fa.WeightPerturbed()), ("fg-a", fa.ActivityPerturbed()))
        num_pixels = examples[0].x.shape[1]
        of_inputs: list[Series] = []
        of_units: list[Series] = []
        for place, (name, rule) in enumerate(rules):
            run.tell(f"variance of {name}", place / len(rules))
            values = [[self._measured(e, rule, copies, self.widths[0]) for e in examples] for copies in self.copies]
            of_inputs += with_fit(points_of(name, [num_pixels * copies for copies in self.copies], values))
            values = [[self._measured(e, rule, 1, width) for e in examples] for width in self.widths]
            of_units += with_fit(points_of(name, self.widths, values))
        return Made(
            (
                Panel(INPUTS, "number of inputs", _Y_LABEL, tuple(of_inputs), "log", "log"),
                Panel(UNITS, "number of hidden units", _Y_LABEL, tuple(of_units), "log", "log"),
            ),
            run.size,
        )

    def _measured(self, example: Example, rule: Rule, copies: int, width: int) -> float:
        wider = Example(example.x.repeat(1, copies), example.y, example.number)
        model = two_layers(wider, width, largest_width=max(self.widths))
        only_hidden_weight_learns(model)
        attached(model, rule, wider)
        return variance_of_draws(model, wider, self.num_draws)


INPUTS, UNITS = "inputs, by doubling pixels", "hidden units"


def examples_of(number: int) -> list[Example]:
    """The first images of the training part, one by one."""
    dataset = data.load(DATA, inputs="symmetric")
    return [Example(dataset.x_train[i : i + 1].flatten(1), dataset.y_train[i : i + 1], i) for i in range(number)]


def two_layers(example: Example, width: int, largest_width: int | None = None) -> nn.Sequential:
    """A network of one hidden layer of ReLU units for one example.

    Args:
        example: Gives the number of inputs; its own number decides the weights.
        width: Hidden units.
        largest_width: The output's weights are drawn as for so many units, so that each is as large whatever the
            width; None: as for those that there are.

    Returns:
        The network.
    """
    num_inputs = example.x.shape[1]
    model = nn.Sequential()
    model.add_module(_HIDDEN, _drawn(num_inputs, width, num_inputs, example.number))
    model.add_module(_POINT, nn.ReLU())
    model.add_module("output", _drawn(width, NUM_CLASSES, largest_width or width, 1_000_000 + example.number))
    return model


def only_hidden_weight_learns(model: nn.Module) -> None:
    """Freeze all but the hidden weight, so that FG-W perturbs nothing else: so it is in the proposition."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == f"{_HIDDEN}.weight")


def attached(model: nn.Module, rule: Rule, example: Example) -> fa.Handle:
    """Attach a rule, with feedback drawn from the example's number."""
    draws = generator(0, example.number, "feedback")
    return fa.attach(model, rule, example_inputs=example.x, generator=draws)


def variance_of_entry(model: nn.Module, example: Example, num_draws: int, seed: int) -> float:
    """Variance over perturbations of one entry of the hidden layer's gradient, averaged over the entries."""
    found = fa.measure.variance(model, F.cross_entropy, (example.x, example.y), num_draws=num_draws, seed=seed)
    row = found[_HIDDEN]
    return row.estimation / row.num_entries


def variance_of_draws(model: nn.Module, example: Example, num_draws: int) -> float:
    """The same of a rule that perturbs anew in every forward, whatever else of the model is frozen."""
    weight = model.get_submodule(_HIDDEN).get_parameter("weight")
    total, squares = torch.zeros_like(weight, dtype=torch.float64), torch.zeros_like(weight, dtype=torch.float64)
    for _ in range(num_draws):
        found = _gradient(model, weight, example).double()
        total += found
        squares += found.square()
    return float(((squares - total.square() / num_draws) / (num_draws - 1)).mean())


def points_of(name: str, x: Sequence[float], values: Sequence[Sequence[float]]) -> Series:
    """Points with their spread over examples."""
    return Series(
        name=name,
        x=tuple(map(float, x)),
        mean=tuple(map(statistics.fmean, values)),
        std=tuple(statistics.stdev(found) if len(found) > 1 else math.nan for found in values),
        n=len(values[0]),
        style="points",
    )


def with_fit(points: Series) -> tuple[Series, Series]:
    """Points, and the line through them with its slope in its name."""
    law = power_law(points.x, points.mean)
    ends = (min(points.x), max(points.x))
    name = f"slope {law.slope:.3f} \N{PLUS-MINUS SIGN} {law.error:.3f}"
    return points, Series(name, ends, tuple(map(law.at, ends)), n=points.n, style="fit")


def has_slope(claim: str, panel: str, name: str, expected: float) -> CheckMaker:
    """A series follows a power law.

    Args:
        claim: The paper's.
        panel: Title of the panel.
        name: Of the points.
        expected: The power.

    Returns:
        The check: within two standard errors, or within 0.1, whichever is more.
    """

    def check(drawing: Drawing) -> Check:
        points = drawing.panel(panel).find(name)
        if points is None:
            return Check(claim, "nothing was measured", None)
        law: PowerLaw = power_law(points.x, points.mean)
        words = f"{name} has slope {law.slope:.3f} \N{PLUS-MINUS SIGN} {law.error:.3f}, expected is {expected:g}"
        error = law.error if math.isfinite(law.error) else 0.0
        slack = max(_SLACK_OF_SLOPE, _STANDARD_ERRORS * error)
        why = f"at least {_SLACK_OF_SLOPE:g}, or two standard errors"
        words += f"; within {slack:.2g} counts as holding ({why})"
        return Check(claim, words, abs(law.slope - expected) <= slack, law.slope)

    return check


def runs_on_linearly(claim: str, slack: float) -> CheckMaker:
    """The variance under a running average is that of one full step times a / (2 - a).

    Args:
        claim: In a sentence.
        slack: As a share of the variance, fixed before the first run.

    Returns:
        The check, by the rate at which they differ most.
    """

    def check(drawing: Drawing) -> Check:
        running, expected = drawing.panel(RATES).find(RUNNING), drawing.panel(RATES).find(EXPECTED)
        if running is None or expected is None:
            return Check(claim, "nothing was measured", None)
        ratios = [(found / law, rate) for found, law, rate in zip(running.mean, expected.mean, running.x, strict=True)]
        ratio, rate = max(ratios, key=lambda pair: abs(math.log(pair[0])))
        words = f"at most a factor {ratio:.3f} off, at rate {rate:g}; {slack:.0%} counts as agreement"
        return Check(claim, words, abs(ratio - 1) <= slack, ratio)

    return check


def _drawn(num_inputs: int, num_outputs: int, fan_in: int, number: int) -> nn.Linear:
    """A layer whose weights are U(+-1/sqrt(fan_in)) and whose biases are zero."""
    layer = nn.Linear(num_inputs, num_outputs, device="meta").to_empty(device="cpu")
    nn.init.uniform_(layer.weight, -(fan_in**-0.5), fan_in**-0.5, generator=generator(0, number, "weights"))
    nn.init.zeros_(layer.bias)
    return layer


def _converge(handle: fa.Handle, model: nn.Sequential) -> None:
    """Set feedback to what it is on its way to: the output's weight, which is linear."""
    feedback = handle.feedback_at(_POINT)
    assert feedback is not None
    feedback.copy_(model.get_submodule("output").get_parameter("weight").detach())


def _gradient(model: nn.Module, weight: nn.Parameter, example: Example) -> Tensor:
    """One estimate, or backprop's gradient where the rule is suspended."""
    loss = F.cross_entropy(model(example.x), example.y)
    (found,) = torch.autograd.grad(loss, [weight])
    return found
