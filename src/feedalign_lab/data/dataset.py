"""What every data set looks like once loaded: the tensors of its parts on one device."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from feedalign_lab.seeding import generator

Task = Literal["classification", "regression", "forecasting"]
"""Classes; values; or, at every step of a series, a value that comes later in it."""
Inputs = Literal["own", "symmetric"]
"""How inputs are scaled: as is usual for the data set, or pixels to [-1, 1]."""

_SHARE_OF_VALIDATION = _SHARE_OF_TEST = 0.2


class Part(NamedTuple):
    """Inputs and targets of some examples."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class DatasetFacts:
    """What a data set consists of.

    Attributes:
        task: "classification", "regression" or "forecasting".
        num_train: Training examples.
        num_validation: Examples that settings and epochs may be chosen on, apart from the others; 0 for none.
        num_test: Test examples.
        is_redrawn: Whether every trial splits the examples anew.
        input_shape: Shape of one input.
        num_outputs: Output units that a network for it needs.
        normalization: What was done to the raw inputs, in words.
    """

    task: Task
    num_train: int
    num_validation: int
    num_test: int
    is_redrawn: bool
    input_shape: tuple[int, ...]
    num_outputs: int
    normalization: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set held as tensors on one device.

    Attributes:
        name: The name it is asked for by.
        x_train: Inputs, float32, [N, D], [N, T, D] or [N, C, H, W].
        y_train: Class numbers, int64 [N]; for regression the values, float32 [N, num_outputs]; for forecasting those
            of every step, float32 [N, T, num_outputs].
        x_test: Inputs of the test part, like `x_train`.
        y_test: Targets of the test part, like `y_train`.
        num_classes: Number of classes; None where there are none.
        task: "classification", "regression" or "forecasting".
        normalization: What was done to the raw inputs, in words.
        validation: Examples apart from training and test part, to choose settings and epochs on; None where the data
            set has no such part.
        pool: All examples together, where every trial splits them anew; else None.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int | None
    task: Task
    normalization: str
    validation: Part | None = None
    pool: Part | None = None

    @property
    def test(self) -> Part:
        """The test part."""
        return Part(self.x_test, self.y_test)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_outputs(self) -> int:
        """Number of output units a network for it needs."""
        return self.num_classes if self.num_classes is not None else int(self.y_train.shape[-1])

    def encode(self, y: Tensor) -> Tensor:
        """Targets as the loss takes them.

        Args:
            y: Class numbers [N], or values [N, ..., num_outputs].

        Returns:
            One-hot float32 rows [N, num_classes] for classes; the values themselves for all else.
        """
        if self.num_classes is None:
            return y
        return functional.one_hot(y, self.num_classes).to(torch.float32)

    def facts(self) -> "DatasetFacts":
        """What to file beside the figures of a run."""
        return DatasetFacts(
            task=self.task,
            num_train=self.x_train.shape[0],
            num_validation=0 if self.validation is None else self.validation.x.shape[0],
            num_test=self.x_test.shape[0],
            is_redrawn=self.pool is not None,
            input_shape=self.input_shape,
            num_outputs=self.num_outputs,
            normalization=self.normalization,
        )

    def of_trial(self, seed: int, trial: int) -> "Dataset":
        """The data set as one trial sees it.

        Args:
            seed: Seed of the run.
            trial: Number of the trial, from 0.

        Returns:
            A random split of its own into 60 % training, 20 % validation and 20 % test examples, where trials draw
            one; else the data set itself.
        """
        if self.pool is None:
            return self
        x, y = self.pool
        order = torch.randperm(x.shape[0], generator=generator(seed, trial, "split")).to(x.device)
        num_validation, num_test = round(x.shape[0] * _SHARE_OF_VALIDATION), round(x.shape[0] * _SHARE_OF_TEST)
        train, validation, test = order.split([x.shape[0] - num_validation - num_test, num_validation, num_test])
        return replace(
            self,
            x_train=x[train],
            y_train=y[train],
            x_test=x[test],
            y_test=y[test],
            validation=Part(x[validation], y[validation]),
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set on another device."""
        return replace(
            self,
            x_train=self.x_train.to(device),
            y_train=self.y_train.to(device),
            x_test=self.x_test.to(device),
            y_test=self.y_test.to(device),
            validation=_moved(self.validation, device),
            pool=_moved(self.pool, device),
        )


def pooled_dataset(name: str, pool: Part, num_classes: int, normalization: str) -> Dataset:
    """A data set for classification whose examples every trial splits anew.

    Args:
        name: The name it is asked for by.
        pool: All examples: inputs and class numbers.
        num_classes: Number of classes.
        normalization: What was done to the raw inputs, in words.

    Returns:
        The data set, split as the first trial of seed 0 sees it.
    """
    whole = Dataset(name, *pool, *pool, num_classes, "classification", normalization, pool=pool)
    return whole.of_trial(0, 0)


def _moved(part: Part | None, device: torch.device | str) -> Part | None:
    """A part on another device, if there is one."""
    return None if part is None else Part(part.x.to(device), part.y.to(device))


def validation_split(dataset: Dataset, fraction: float = 0.2, seed: int = 0) -> Dataset:
    """A data set with its validation part in the place of the test part, which is not in it.

    Settings are chosen on this, so that the test part is looked at only when they are fixed. Where the data set has no
    validation part, one is held out of the training part.

    Args:
        dataset: The data set to split.
        fraction: Share of the training part to hold out, between 0 and 1.
        seed: Seed of the shuffle before the split.

    Returns:
        The data set with the validation part as its test part, and, if that is held out, a smaller training part.
    """
    if dataset.validation is not None:
        return replace(dataset, x_test=dataset.validation.x, y_test=dataset.validation.y, validation=None, pool=None)
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
