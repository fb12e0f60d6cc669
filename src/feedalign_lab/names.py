"""The names a user can type, in a module that imports nothing heavy."""

from collections.abc import Mapping
from typing import Literal

DATA_NAMES = (
    "digits",
    "mnist",
    "fashion-mnist",
    "cifar10",
    "cifar100",
    "row-mnist",
    "row-fashion-mnist",
    "libras",
    "ecg200",
    "strawberry",
    "mackey-glass",
    "synthetic-regression",
    "synthetic-classification",
)
SERIES_NAMES = ("row-mnist", "row-fashion-mnist", "libras", "ecg200", "strawberry", "mackey-glass")
"""Data sets whose inputs are series of steps, for recurrent networks."""
TASKS_WITHOUT_CLASSES: Mapping[str, Literal["regression", "forecasting"]] = {
    "synthetic-regression": "regression",
    "mackey-glass": "forecasting",
}
"""The task of each data set that has values in the place of classes."""
PIXEL_NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "row-mnist", "row-fashion-mnist")
"""Data sets whose inputs are pixels, so that there is a darkest and a brightest value to scale to."""

NETWORK_NAMES = (
    "fc1-500", "fc1-1000", "fc2-500", "fc2-1000", "conv", "conv-random",
    "mlp1-800", "mlp2-800", "mlp3-1000", "mlp2-800-bn",
    "cnn", "cnn-bn", "alexnet", "alexnet-small",
    "rnn-512", "gru-512", "gru-before-512", "lstm-512",
)  # fmt: skip
NETWORK_PATTERNS = (
    "fc<layers>-<width>",
    "mlp<layers>-<width>",
    "mlp<layers>-<width>-bn",
    *(f"{cell}-<width>{layers}" for cell in ("rnn", "gru", "gru-before", "lstm") for layers in ("", "-x<layers>")),
)
