"""The alignment theorem of direct random target projection, watched in a training of the attached rule.

Frenkel, Lefebvre & Bol 2021, Fig. 4 and Supplementary Note 1: in a network of K layers, all but the output's linear,
whose weights start at zero and which learns one example, the teaching signals of `fa.DRTP` and of backprop agree:

    S_k^t (backprop) = c_k^t * S_k^t (DRTP),   c_k^t = 0 for t < K,   c_k^t > 0 for t >= K,   k = 1 ... K-1

with t the number of updates made. All weights stay of rank one, `W_k = s_k (B_k^T y)(B_{k-1}^T y)^T`; layer k has an
input other than zero from t = k-1 on and a weight other than zero from t = k on, so that backprop's signal, which
passes layers k+1 to K, exists from t = K on.

Differs from the paper: there the statement is made for t > 0 and for directions within 90 degrees. At t = 1 ... K-1
backprop's signal is zero; afterwards the two are exactly parallel. The sign is that of Algorithm 1, which the library
has; the Supplementary Note's is `B -> -B`.

The error is computed without cancellation: `softmax - 1` of the example's class has no digits left once the prediction
rounds to one, and backprop's signal would then be of rounding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.measure.alignment import angle
from feedalign_lab.errors import SettingError
from feedalign_lab.plots import as_png, line_style
from feedalign_lab.seeding import generator

_ANGLE_OF_ROUNDING = 1e-6
_STRAIGHT = 100.0
_PANEL_WIDTH, _PANEL_HEIGHT = 4.2, 3.0


@dataclass(frozen=True)
class OneExample:
    """A network that learns one example under DRTP.

    Attributes:
        title: What it shows, in a few words.
        start: How the weights start: at zero, as the theorem has it, or at random (torch's own draw).
        hidden: What the hidden layers are: linear, as the theorem has it, or followed by tanh.
        num_layers: K, with the output layer.
        width: Units of each hidden layer.
        num_inputs: Numbers in the example, which are normal.
        num_classes: Classes, of which the example is the first.
        learning_rate: Step size of plain gradient descent.
        num_steps: Updates.
        seed: Decides example, feedback and weights.
    """

    title: str
    start: Literal["zero", "random"] = "zero"
    hidden: Literal["linear", "tanh"] = "linear"
    num_layers: int = 4
    width: int = 20
    num_inputs: int = 20
    num_classes: int = 10
    learning_rate: float = 0.045
    num_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes of which there is no network."""
        sizes = (self.width, self.num_inputs, self.num_classes - 1, self.num_steps, self.num_layers - 1)
        if min(sizes) < 1:
            raise SettingError(
                f"{self} has nothing to watch: it takes 2 layers or more, 2 classes or more, and a width, inputs and "
                "steps of 1 or more."
            )
        if not 0 < self.learning_rate < math.inf:
            raise SettingError(f"The learning rate is {self.learning_rate}; it has to be a number above 0.")


CASES = (
    OneExample("linear layers, zero start"),
    OneExample("linear layers, random start", start="random"),
    OneExample("tanh layers, zero start", hidden="tanh", learning_rate=0.5),
)
"""The theorem's conditions, and each of its two conditions on the network broken."""


@dataclass(frozen=True)
class Signals:
    """The two teaching signals of one hidden layer.

    Attributes:
        step: Updates made before they were sent.
        layer: Number of the hidden layer, from 1.
        angle: Between them, in degrees; nan where one is zero.
        drtp: Norm of DRTP's.
        backprop: Norm of backprop's.
    """

    step: int
    layer: int
    angle: float
    drtp: float
    backprop: float


def watch(case: OneExample) -> tuple[Signals, ...]:
    """Train a network on one example with the attached rule, in double precision.

    Args:
        case: The network.

    Returns:
        The signals, step by step from 0 to `num_steps`, layer by layer. The global random state is left as it was.
    """
    example = torch.randn(1, case.num_inputs, dtype=torch.float64, generator=generator(case.seed, 0, "samples"))
    label = torch.tensor([0])
    model = _network(case)
    points = [name for name, _ in model.named_children() if name.startswith("hidden")]
    rule = fa.DRTP(allow_unbounded=True)
    draws = generator(case.seed, 0, "feedback")
    handle = fa.attach(model, rule, points=points, example_inputs=example, generator=draws)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.learning_rate)
    found = []
    for step in range(case.num_steps + 1):
        with handle.suspended():
            backprop = _signals(model, points, example, label)
        # Second, so that the gradients left behind are those that the optimizer is to take.
        drtp = _signals(model, points, example, label)
        for layer, (one, other) in enumerate(zip(drtp, backprop, strict=True), start=1):
            norms = float(one.norm()), float(other.norm())
            found.append(Signals(step, layer, angle(one, other) if all(norms) else math.nan, *norms))
        optimizer.step()
    return tuple(found)


def _network(case: OneExample) -> nn.Sequential:
    """Layers without biases; the outputs of `hidden1`, `hidden2`, ... are what DRTP teaches."""
    weights = generator(case.seed, 0, "weights")
    widths = [case.num_inputs, *[case.width] * (case.num_layers - 1), case.num_classes]
    model = nn.Sequential()
    for number, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        layer = nn.Linear(fan_in, fan_out, bias=False, dtype=torch.float64, device="meta").to_empty(device="cpu")
        if case.start == "zero":
            nn.init.zeros_(layer.weight)
        else:
            nn.init.uniform_(layer.weight, -(fan_in**-0.5), fan_in**-0.5, generator=weights)
        if number == case.num_layers:
            model.add_module("output", layer)
        elif case.hidden == "tanh":
            model.add_module(f"hidden{number}", nn.Sequential(layer, nn.Tanh()))
        else:
            model.add_module(f"hidden{number}", layer)
    return model


def _signals(model: nn.Sequential, points: Sequence[str], example: Tensor, label: Tensor) -> list[Tensor]:
    """The gradients that arrive at points in one backward, which also leaves those of the weights."""
    arrived: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            del module, args
            output.register_hook(lambda grad: arrived.__setitem__(name, grad.detach().clone()))

        # Before the rule's own hook, which hands a detached tensor on.
        return model.get_submodule(name).register_forward_hook(hook, prepend=True)

    hooks = [keep(name) for name in points]
    model.zero_grad()
    _cross_entropy(model(example), label).backward()
    for hook in hooks:
        hook.remove()
    return [arrived[name] for name in points]


def _cross_entropy(output: Tensor, label: Tensor) -> Tensor:
    """Softmax cross-entropy of one example, whose derivative is exact however sure the prediction is.

    With u the log-sum-exp of the other outputs minus the label's, the loss is log(1 + e^u), and the derivative by the
    label's output is -sigmoid(u), where that of `F.cross_entropy` is p - 1.
    """
    is_label = F.one_hot(label, output.shape[1]).bool()
    others = output.masked_fill(is_label, -math.inf).logsumexp(dim=1)
    # Beyond its threshold softplus is a straight line, which it is by then to the last digit.
    return F.softplus(others - output[is_label], threshold=_STRAIGHT).mean()


def theorem(cases: Sequence[OneExample] = CASES) -> dict[str, Any]:
    """Watch the theorem and its controls.

    Args:
        cases: The networks.

    Returns:
        Plain data: each case's setting and its rows; an angle to a signal of zero is None.
    """
    return {
        "source": "Frenkel et al. 2021, Fig. 4 and Supplementary Note 1",
        "cases": [
            {
                **asdict(case),
                "rows": [{**asdict(row), "angle": None if math.isnan(row.angle) else row.angle} for row in watch(case)],
            }
            for case in cases
        ],
    }


def draw(data: Mapping[str, Any]) -> bytes:
    """Angles, and norms of backprop's signals, over updates: a column of panels per case, a line per hidden layer.

    Args:
        data: What `theorem` returned.

    Returns:
        The PNG image.
    """
    cases = data["cases"]
    size = (len(cases) * _PANEL_WIDTH + 0.4, 2 * _PANEL_HEIGHT + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle("DRTP and backprop: one example, softmax output")
    for column, case in enumerate(cases):
        above = figure.add_subplot(2, len(cases), column + 1)
        below = figure.add_subplot(2, len(cases), len(cases) + column + 1)
        for layer in range(1, case["num_layers"]):
            rows = [row for row in case["rows"] if row["layer"] == layer]
            style = line_style(layer + 1) | {"marker": "o", "markersize": 3}
            steps = [row["step"] for row in rows]
            angles = [math.nan if row["angle"] is None else row["angle"] for row in rows]
            above.plot(steps, angles, label=f"layer {layer}", **style)
            below.plot(steps, [row["backprop"] or math.nan for row in rows], **style)
        _finish(above, below, case)
    return as_png(figure)


def _finish(above: Axes, below: Axes, case: Mapping[str, Any]) -> None:
    """Axes, and the update from which on the theorem speaks."""
    angles = [row["angle"] for row in case["rows"] if row["angle"] is not None]
    for axes in (above, below):
        axes.axvline(case["num_layers"], color="#bbbbbb", linewidth=0.8, linestyle=":")
        axes.set_xlim(-0.5, case["num_steps"] + 0.5)
        axes.set_xlabel("updates")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    above.axhline(90, color="#bbbbbb", linewidth=0.8)
    exact = max(angles, default=0) < _ANGLE_OF_ROUNDING
    note = "\nexactly parallel from update K on" if exact and angles else ""
    above.set(ylabel="angle to backprop (degrees)", title=f"{case['title']}, K = {case['num_layers']}{note}")
    above.set_ylim(-3, max(105.0, *angles, 0.0) + 2)
    above.legend(fontsize="small")
    below.set(ylabel="norm of backprop's signal", yscale="log")
