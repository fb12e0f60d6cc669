"""The problems that tests share: a small perceptron, its data, and a loss, all drawn from a seed."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from reference.convolutional import ConvNet
from reference.losses import error_at_output, one_hot, sample_scale
from reference.perceptron import Perceptron

NONLINEARITIES: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "identity": fa.FeedbackPoint,
}


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers from a generator of their own."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@dataclass(frozen=True)
class Problem:
    """Layers `fc1`, `act1`, `fc2`, ...; the last `fc` makes the output."""

    loss: str = "cross_entropy"
    reduction: str = "mean"
    nonlinearity: str = "tanh"
    widths: tuple[int, ...] = (5, 7, 6, 4)
    num_samples: int = 5
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        return f"{self.loss}-{self.reduction}-{self.nonlinearity}-{str(self.dtype).removeprefix('torch.')}"

    @property
    def num_hidden(self) -> int:
        return len(self.widths) - 2

    def with_samples(self, num_samples: int) -> "Problem":
        return replace(self, num_samples=num_samples)

    def model(self, seed: int = 1) -> nn.Sequential:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (fan_in, fan_out) in enumerate(zip(self.widths, self.widths[1:], strict=False), start=1):
            layers[f"fc{number}"] = nn.Linear(fan_in, fan_out, dtype=self.dtype)
            if number <= self.num_hidden:
                layers[f"act{number}"] = NONLINEARITIES[self.nonlinearity]()
        model = nn.Sequential(layers)
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                fan = parameter.shape[-1] if parameter.dim() > 1 else 4
                parameter.copy_(draw(*parameter.shape, seed=100 * seed + number) / fan**0.5)
        return model

    def inputs(self) -> Tensor:
        return draw(self.num_samples, self.widths[0], seed=2, dtype=self.dtype)

    def targets(self) -> Tensor:
        """Class indices, zeros and ones of several classes at once, or numbers."""
        if self.loss == "cross_entropy":
            return torch.arange(self.num_samples) * 3 % self.widths[-1]
        numbers = draw(self.num_samples, self.widths[-1], seed=3, dtype=self.dtype)
        return (numbers > 0).to(self.dtype) if self.loss == "binary_cross_entropy" else numbers

    def target_rows(self) -> Tensor:
        """The targets as the equations have them, `[N, C]`."""
        targets = self.targets()
        return one_hot(targets, self.widths[-1]) if self.loss == "cross_entropy" else targets.double()

    def scale(self) -> float:
        return sample_scale(self.loss, self.reduction, self.num_samples, self.widths[-1])

    def loss_of(self, output: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss as a user computes it; with weights, each sample's loss is multiplied by its own."""
        function = {
            "cross_entropy": F.cross_entropy,
            "binary_cross_entropy": F.binary_cross_entropy_with_logits,
            "squared_error": F.mse_loss,
        }[self.loss]
        if weights is None:
            return function(output, self.targets(), reduction=self.reduction)
        losses = function(output, self.targets(), reduction="none").reshape(self.num_samples, -1)
        return (losses * weights[:, None]).sum() * self.scale()

    def direct_feedback(self, seed: int = 4) -> dict[str, Tensor]:
        """Matrices `[C, D]` by feedback point."""
        return {
            f"act{layer}": draw(self.widths[-1], width, seed=10 * seed + layer, dtype=self.dtype)
            for layer, width in enumerate(self.widths[1:-1], start=1)
        }

    def layerwise_feedback(self, seed: int = 5) -> dict[str, Tensor]:
        """Matrices of the shapes of the weights by layer; the first layer sends nothing back and has none."""
        return {
            f"fc{layer}": draw(fan_out, fan_in, seed=10 * seed + layer, dtype=self.dtype)
            for layer, (fan_in, fan_out) in enumerate(zip(self.widths[1:], self.widths[2:], strict=False), start=2)
        }


class MeanOverTokens(nn.Module):
    """fc1 and act1 at every token, the mean over tokens, and an output for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        problem = Problem(widths=(5, 7, 4))
        self.fc1, self.act1, self.fc2 = problem.model()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act1(self.fc1(x)).mean(1))


class TimesOne(nn.Module):
    """A model behind which an operation outside of all modules leaves tangents to dual tensors."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return 1.0 * self.body(x)


def pixelwise(problem: Problem) -> nn.Sequential:
    """The problem's network with one hidden layer at every pixel of an image, as 1 x 1 convolutions `0` and `2`."""
    num_inputs, num_hidden, num_outputs = problem.widths
    model = nn.Sequential(nn.Conv2d(num_inputs, num_hidden, 1), nn.Tanh(), nn.Conv2d(num_hidden, num_outputs, 1))
    with torch.no_grad():
        for convolution, parameter in zip(model.double().parameters(), problem.model().parameters(), strict=True):
            convolution.copy_(parameter.reshape(convolution.shape))
    return model


def by_pixel(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of that network under the names and in the shapes of the problem's own."""
    names = {"0": "fc1", "2": "fc2", "2.feedalign": "fc2.feedalign"}
    found = {}
    for name, gradient in gradients.items():
        module, _, own = name.rpartition(".")
        place = f"{names[module]}.{'act1' if own == '1' else own}"
        found[place] = gradient.flatten(1) if gradient.dim() > 1 else gradient
    return found


def by_hand(model: nn.Module, nonlinearity: str) -> Perceptron:
    """The same network as the equations have it."""
    parameters = {name: p.detach().double() for name, p in model.named_parameters() if name.startswith("fc")}
    parameters = {name: p for name, p in parameters.items() if "feedalign" not in name}
    weights = [p for name, p in parameters.items() if name.endswith("weight")]
    biases = [p for name, p in parameters.items() if name.endswith("bias")]
    return Perceptron(weights, biases, nonlinearity)


ALL_LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")
CLASSIFICATION = ("cross_entropy", "binary_cross_entropy")


def problems(losses: tuple[str, ...] = ALL_LOSSES, nonlinearities: tuple[str, ...] = ("tanh", "sigmoid", "relu")):
    """Every loss with mean and sum, every non-linearity, in float64; and one of each loss in float32."""
    exact = [Problem(loss, reduction, "tanh") for loss in losses for reduction in ("mean", "sum")]
    exact += [Problem(losses[0], "mean", nonlinearity) for nonlinearity in nonlinearities if nonlinearity != "tanh"]
    return exact + [Problem(loss, dtype=torch.float32) for loss in losses]


class SmallConvNet(nn.Module):
    """The network of `reference.convolutional`, on 2 x 8 x 8 images of 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.act1, self.pool1 = nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)
        self.conv2, self.act2, self.pool2 = nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AvgPool2d(2)
        self.fc = nn.Linear(4, 5)
        self.double()
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(draw(*parameter.shape, seed=50 + number) / 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.act1(self.conv1(x)))
        x = self.pool2(self.act2(self.conv2(x)))
        return self.fc(x.flatten(1))

    def by_hand(self) -> ConvNet:
        held = {name: p.detach() for name, p in self.named_parameters()}
        return ConvNet(
            [held["conv1.weight"], held["conv2.weight"]],
            [held["conv1.bias"], held["conv2.bias"]],
            [1, 0],
            held["fc.weight"],
            held["fc.bias"],
        )

    @staticmethod
    def batch(num_samples: int = 3) -> tuple[Tensor, Tensor]:
        return draw(num_samples, 2, 8, 8, seed=60), torch.arange(num_samples) * 2 % 5

    def error_by_hand(self, labels: Tensor, output: Tensor) -> Tensor:
        """Error of the mean cross-entropy."""
        return error_at_output("cross_entropy", output, one_hot(labels, 5), 1 / len(labels))
