"""Small data sets out of a generator, in the shapes of the real ones."""

import torch

from feedalign_lab.data.dataset import Dataset

SHAPES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32), "cifar100": (3, 32, 32)}


def made(data: str, num_examples: int = 16, *, shape: tuple[int, ...] | None = None) -> Dataset:
    """A data set of a name's shape and task, whose classes can be told by a bright place."""
    draws = torch.Generator().manual_seed(0)
    num_classes = 10
    y = torch.arange(num_examples) % num_classes
    x = torch.rand(num_examples, *(shape or SHAPES.get(data, (256,))), generator=draws) * 2 - 1
    for image, label in zip(x, y.tolist(), strict=True):
        image.flatten()[label] = 5.0
        row, column = 4 + 12 * (label // 5), 1 + 5 * (label % 5)
        if image.dim() == 3:
            image[:, row : row + 5, column : column + 5] = 3.0
    if data == "synthetic-regression":
        values = torch.rand(num_examples, num_classes, generator=draws)
        return Dataset(data, x, values, x, values, None, "regression", "made")
    return Dataset(data, x, y, x, y, num_classes, "classification", "made")
