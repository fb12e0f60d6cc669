"""The data of several trials, batch by batch: each trial in an order of its own."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from feedalign_lab.data.augmentation import flip_horizontally
from feedalign_lab.data.dataset import Dataset, Part
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.seeding import generator
from feedalign_lab.tensors import TensorTrial
from feedalign_lab.training import Schedule


class Order:
    """The order in which one trial sees its training data.

    Attributes:
        dataset: The trial's split.
        targets: Of the training part, as the loss takes them.
        draws: What shuffles and mirrors.
    """

    def __init__(self, trial: TensorTrial, spec: LearnerSpec, targets: Tensor) -> None:
        """Start at the beginning of the trial's own stream.

        Args:
            trial: The trial.
            spec: Its seeds.
            targets: Of its training part, as the loss takes them.
        """
        self.dataset, self.targets = trial.dataset, targets
        self.draws = generator(spec.seed, spec.trial, "order")


def orders_of(trials: Sequence[TensorTrial], specs: Sequence[LearnerSpec]) -> list[Order]:
    """The orders of several trials, which hold the same data only once.

    Args:
        trials: The trials.
        specs: Their seeds.

    Returns:
        One each.
    """
    orders: list[Order] = []
    for trial, spec in zip(trials, specs, strict=True):
        first = orders[0] if orders else None
        if first is not None and _is_same(first.dataset, trial.dataset):
            trial.dataset = first.dataset
            orders.append(Order(trial, spec, first.targets))
        else:
            orders.append(Order(trial, spec, trial.dataset.encode(trial.dataset.y_train)))
    return orders


def _is_same(one: Dataset, other: Dataset) -> bool:
    """Whether two splits have the same examples in the same order."""
    if one.x_train is other.x_train:
        return True
    return torch.equal(one.y_train, other.y_train) and torch.equal(one.x_train, other.x_train)


def epoch_of(orders: Sequence[Order], schedule: Schedule) -> list[Tensor]:
    """Shuffle the training data of each trial.

    Args:
        orders: Of the trials.
        schedule: The batch size.

    Returns:
        The places in the training data, [K, N] for each batch.
    """
    num_train = orders[0].targets.shape[0]
    shuffled = torch.stack([torch.randperm(num_train, generator=order.draws) for order in orders])
    device = orders[0].targets.device
    return list(shuffled.to(device).split(schedule.batch_size or num_train, dim=1))


def batch_of(orders: Sequence[Order], chosen: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Gather one batch of every trial.

    Args:
        orders: Of the trials.
        chosen: Places in the training data, [K, N].
        schedule: Whether images are mirrored.

    Returns:
        Inputs [K, N, ...] and targets [K, N, C].
    """
    x = _gathered([order.dataset.x_train for order in orders], chosen)
    y = _gathered([order.targets for order in orders], chosen)
    if schedule.flip:
        x = torch.stack([flip_horizontally(own, order.draws) for own, order in zip(x, orders, strict=True)])
    return x, y


def _gathered(sources: Sequence[Tensor], chosen: Tensor) -> Tensor:
    """Rows of the trials' tensors, which are one and the same if the first two are."""
    first = sources[0]
    if all(source is first for source in sources):
        return first.index_select(0, chosen.flatten()).view(*chosen.shape, *first.shape[1:])
    return torch.stack([source.index_select(0, own) for source, own in zip(sources, chosen, strict=True)])


def parts_of(
    orders: Sequence[Order], part_of: Callable[[Dataset], Part | None], size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """A held-out part of every trial's data, batch by batch.

    Args:
        orders: Of the trials.
        part_of: Which part.
        size: Examples of a batch.

    Yields:
        Inputs [K, N, ...] and targets [K, N, ...] as the data set has them.
    """
    parts = [part for order in orders if (part := part_of(order.dataset)) is not None]
    for start in range(0, parts[0].x.shape[0], size):
        place = slice(start, start + size)
        yield _together([part.x for part in parts], place), _together([part.y for part in parts], place)


def _together(sources: Sequence[Tensor], place: slice) -> Tensor:
    first = sources[0]
    if all(source is first for source in sources):
        return first[place].expand(len(sources), *first[place].shape)
    return torch.stack([source[place] for source in sources])
