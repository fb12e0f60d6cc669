"""Small models that the tests attach rules to, each named after what is special about it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa

NUM_INPUTS, NUM_CLASSES = 5, 3


def batch(num_samples: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Inputs `[N, 5]` and class indices `[N]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, NUM_INPUTS, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(NUM_CLASSES, (num_samples,), generator=generator)


def images(num_samples: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs `[N, 2, 6, 6]` and class indices `[N]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_samples, 2, 6, 6, generator=generator)
    return x, torch.randint(NUM_CLASSES, (num_samples,), generator=generator)


class Seeded(nn.Module):
    """A module whose initial weights depend on its seed alone, and not on the global random state."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(**options)

    def build(self) -> None:
        raise NotImplementedError


class Perceptron(Seeded):
    """5-7-6-3 with a module for each activation."""

    def build(self, activation: type[nn.Module] = nn.Tanh) -> None:
        self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), activation()
        self.fc2, self.act2 = nn.Linear(7, 6), activation()
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.act1(self.fc1(x)))))


class Functional(Perceptron):
    """An operation outside the modules: tangents travel as dual tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.0


class FunctionalActivations(Seeded):
    """Functional activations, each with a feedback point behind it."""

    def build(self) -> None:
        self.fc1, self.fc2, self.head = nn.Linear(NUM_INPUTS, 7), nn.Linear(7, 6), nn.Linear(6, NUM_CLASSES)
        self.point1, self.point2 = fa.FeedbackPoint(), fa.FeedbackPoint()

    def forward(self, x: Tensor) -> Tensor:
        h = self.point1(nn.functional.relu(self.fc1(x)))
        return self.head(self.point2(self.fc2(h).tanh()))


class Residual(Seeded):
    """Residual blocks that share a layer, batch and layer normalization, and an activation in place."""

    def build(self) -> None:
        self.stem, self.norm, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.BatchNorm1d(7), nn.ReLU(inplace=True)
        self.fc, self.norm2, self.act2, self.act3 = nn.Linear(7, 7), nn.LayerNorm(7), nn.Tanh(), nn.Tanh()
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.norm(self.stem(x)))
        h = h + self.act2(self.norm2(self.fc(h)))
        return self.head(h + self.act3(self.norm2(self.fc(h))))


def sequential(seed: int = 0, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """The same network as an nn.Sequential."""
    parts = Perceptron(seed, activation=activation)
    return nn.Sequential(OrderedDict(parts.named_children()))


class SharedActivation(Seeded):
    """One nn.Tanh instance serves both hidden layers."""

    def build(self, activation: type[nn.Module] = nn.Tanh) -> None:
        self.fc1, self.fc2, self.head = nn.Linear(NUM_INPUTS, 7), nn.Linear(7, 6), nn.Linear(6, NUM_CLASSES)
        self.act = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc2(self.act(self.fc1(x)))))


class SharedLinear(Seeded):
    """One nn.Linear is used twice in a forward."""

    def build(self) -> None:
        self.fc1, self.fc2, self.head = nn.Linear(NUM_INPUTS, 7), nn.Linear(7, 7), nn.Linear(7, NUM_CLASSES)
        self.act1, self.act2, self.act3 = nn.Tanh(), nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act2(self.fc2(self.act1(self.fc1(x))))
        return self.head(self.act3(self.fc2(h)))


class Branches(Seeded):
    """Two branches of their own depth meet before the head."""

    def build(self) -> None:
        self.left, self.left_act = nn.Linear(NUM_INPUTS, 4), nn.Tanh()
        self.right1, self.right_act1 = nn.Linear(NUM_INPUTS, 6), nn.Sigmoid()
        self.right2, self.right_act2 = nn.Linear(6, 4), nn.Tanh()
        self.head = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        right = self.right_act2(self.right2(self.right_act1(self.right1(x))))
        return self.head(torch.cat([self.left_act(self.left(x)), right], dim=1))


class CutSkip(Seeded):
    """A skip connection that starts and ends at feedback points: every path is cut."""

    def build(self) -> None:
        self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.Tanh()
        self.fc2, self.act2 = nn.Linear(7, 7), nn.Tanh()
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.fc1(x))
        return self.head(h + self.act2(self.fc2(h)))


class LeakySkip(Seeded):
    """An identity skip around the only point: exact backprop reaches `stem` through the head."""

    def build(self) -> None:
        self.stem, self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.Linear(7, 7), nn.Tanh()
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        return self.head(h + self.act1(self.fc1(h)))


class Gated(Seeded):
    """Two points on one pre-activation."""

    def build(self) -> None:
        self.fc1, self.act1, self.act2 = nn.Linear(NUM_INPUTS, 7), nn.Tanh(), nn.Sigmoid()
        self.head = nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = self.fc1(x)
        return self.head(self.act1(a) * self.act2(a))


class Regularised(Seeded):
    """Dropout and batch normalization."""

    def build(self, activation: type[nn.Module] = nn.Tanh) -> None:
        self.fc1, self.norm, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.BatchNorm1d(7), activation()
        self.drop = nn.Dropout(0.4)
        self.fc2, self.act2 = nn.Linear(7, 6), activation()
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act2(self.fc2(self.drop(self.act1(self.norm(self.fc1(x)))))))


class Convolutional(Seeded):
    """Convolutions, pooling and linear layers, each named after its kind."""

    def build(self) -> None:
        self.conv1, self.act1, self.pool = nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)
        self.conv2, self.act2 = nn.Conv2d(4, 3, 2, stride=1), nn.Tanh()
        self.fc1, self.act3 = nn.Linear(12, 8), nn.Tanh()
        self.fc2 = nn.Linear(8, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act2(self.conv2(self.pool(self.act1(self.conv1(x)))))
        return self.fc2(self.act3(self.fc1(h.flatten(1))))


class PixelClassifier(Seeded):
    """Class scores `[N, 3, 6, 6]` for every pixel."""

    def build(self) -> None:
        self.conv1, self.act1, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, NUM_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act1(self.conv1(x)))


class OneNumber(Seeded):
    """One output per sample: `[N]`, or `[N, 1]` with `column=True`."""

    def build(self, column: bool = False) -> None:
        self.fc1, self.act1, self.head, self.column = nn.Linear(NUM_INPUTS, 7), nn.Tanh(), nn.Linear(7, 1), column

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.act1(self.fc1(x)))
        return y if self.column else y.squeeze(-1)


class ReturnsDict(Perceptron):
    """A dict of the loss and the logits, as Transformers' models return; inputs by keyword."""

    def forward(self, *, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = super().forward(inputs)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class ReturnsTuple(Perceptron):
    """Logits and the features below them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.act2(self.fc2(self.act1(self.fc1(x))))
        return self.head(features), features


class TakesBranch(Seeded):
    """The upper hidden layer is skipped when `short` is set."""

    def build(self) -> None:
        self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.Tanh()
        self.fc2, self.act2 = nn.Linear(7, 7), nn.Tanh()
        self.head, self.short = nn.Linear(7, NUM_CLASSES), False

    def forward(self, x: Tensor) -> Tensor:
        h = self.act1(self.fc1(x))
        return self.head(h if self.short else self.act2(self.fc2(h)))


class Repeats(Seeded):
    """The hidden layer runs `times` times."""

    def build(self) -> None:
        self.stem, self.fc, self.act, self.head = (
            nn.Linear(NUM_INPUTS, 7),
            nn.Linear(7, 7),
            nn.Tanh(),
            nn.Linear(7, NUM_CLASSES),
        )
        self.times = 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(self.times):
            h = self.act(self.fc(h))
        return self.head(h)


class RunsItsChildren(Seeded):
    """The forward runs over all children; whatever is registered on the model is run too."""

    def build(self) -> None:
        self.fc1, self.act1 = nn.Linear(NUM_INPUTS, 7), nn.Tanh()
        self.fc2, self.act2 = nn.Linear(7, 6), nn.Tanh()
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class TakesItsLastChild(Seeded):
    """The forward takes the last child for the head: registering anything changes what it computes."""

    def build(self) -> None:
        self.fc1, self.act1, self.head = nn.Linear(NUM_INPUTS, 7), nn.Tanh(), nn.Linear(7, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, head = self.children()
        for child in hidden:
            x = torch.sin(child(x))
        return head(x)


class Wrapper(Seeded):
    """Another model is an attribute of this one, with layers around it."""

    def build(self, inner: nn.Module | None = None) -> None:
        self.inner = inner if inner is not None else Perceptron()
        self.act, self.top = nn.Tanh(), nn.Linear(NUM_CLASSES, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.act(self.inner(x)))
