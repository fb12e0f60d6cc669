"""What every data set looks like once loaded: four tensors on one device."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from feedalign_lab.seeding import generator

Task = Literal["classification", "regression"]
Inputs = Literal["own", "symmetric"]
"""How inputs are scaled: as is usual for the data set, or pixels to [-1, 1]."""


@dataclass(frozen=True)
class DatasetFacts:
    """What a data set consists of.

    Attributes:
        task: "classification" or "regression".
        num_train: Training examples.
        num_test: Test examples.
        input_shape: Shape of one input.
        num_outputs: Output units that a network for it needs.
        normalization: What was done to the raw inputs, in words.
    """

    task: Task
    num_train: int
    num_test: int
    input_shape: tuple[int, ...]
    num_outputs: int
    normalization: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set held as tensors on one device.

    Attributes:
        name: The name it is asked for by.
        x_train: Inputs, float32, [N, D] or [N, C, H, W].
        y_train: Class numbers, int64 [N], or for regression the values, float32 [N, num_outputs].
        x_test: Inputs of the test part, like `x_train`.
        y_test: Targets of the test part, like `y_train`.
        num_classes: Number of classes; None for regression.
        task: "classification" or "regression".
        normalization: What was done to the raw inputs, in words.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int | None
    task: Task
    normalization: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_outputs(self) -> int:
        """Number of output units a network for it needs."""
        return self.num_classes if self.num_classes is not None else int(self.y_train.shape[1])

    def encode(self, y: Tensor) -> Tensor:
        """Targets as the loss takes them.

        Args:
            y: Class numbers [N], or regression values [N, num_outputs].

        Returns:
            One-hot float32 rows [N, num_classes] for classes; the values themselves for regression.
        """
        if self.num_classes is None:
            return y
        return functional.one_hot(y, self.num_classes).to(torch.float32)

    def facts(self) -> "DatasetFacts":
        """What to file beside the figures of a run."""
        return DatasetFacts(
            task=self.task,
            num_train=self.x_train.shape[0],
            num_test=self.x_test.shape[0],
            input_shape=self.input_shape,
            num_outputs=self.num_outputs,
            normalization=self.normalization,
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set on another device."""
        return replace(
            self,
            x_train=self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_test=self.x_test.to(device),
            y_test=self.y_test.to(device),
        )


def validation_split(dataset: Dataset, fraction: float = 0.2, seed: int = 0) -> Dataset:
    """A data set whose test part is held out of the training part; the real test part is not in it.

    Settings are chosen on this, so that the test part is looked at only when they are fixed.

    Args:
        dataset: The data set to split.
        fraction: Share of the training part to hold out, between 0 and 1.
        seed: Seed of the shuffle before the split.

    Returns:
        The data set with a smaller training part and the held-out part as its test part.
    """
    num_train = dataset.x_train.shape[0]
    order = torch.randperm(num_train, generator=generator(seed, 0, "split")).to(dataset.x_train.device)
    held_out, kept = order.split([round(num_train * fraction), num_train - round(num_train * fraction)])
    return replace(
        dataset,
        x_train=dataset.x_train[kept],
        y_train=dataset.y_train[kept],
        x_test=dataset.x_train[held_out],
        y_test=dataset.y_train[held_out],
    )
