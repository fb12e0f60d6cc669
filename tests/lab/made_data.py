"""Small data sets out of a generator, in the shapes of the real ones."""

import torch

from feedalign_lab.data.dataset import Dataset, Part, pooled_dataset

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


def made_series(
    num_examples: int = 24, *, num_steps: int = 6, is_redrawn: bool = False, is_forecast: bool = False
) -> Dataset:
    """Series [N, T, 2] whose class is the sign of their mean; or whose values two steps later are to be told."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(num_examples) % 2
    x = torch.randn(num_examples, num_steps, 2, generator=draws) + (2.0 * y - 1).view(-1, 1, 1)
    if is_forecast:
        waves = torch.sin(torch.arange(num_steps + 2.0) * 0.7 + torch.rand(num_examples, 1, generator=draws) * 6)
        x, values = waves[:, :-2, None], waves[:, 2:, None]
        part = Part(x[::2], values[::2])
        return Dataset("mackey-glass", x, values, x, values, None, "forecasting", "made", validation=part)
    if is_redrawn:
        return pooled_dataset("libras", Part(x, y), 2, "made")
    return Dataset("row-mnist", x, y, x, y, 2, "classification", "made")
