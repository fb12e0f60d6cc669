"""Networks by name, with the weights drawn from a seed."""

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.models.convolutional import convolutional
from feedalign_lab.models.fully_connected import fully_connected
from feedalign_lab.names import NETWORK_NAMES

__all__ = [
    "NetworkFacts",
    "WeightInit",
    "build_network",
    "check_network_name",
    "fully_connected_sizes",
    "network_facts",
]

WeightInit = Literal["default", "zero"]
_FULLY_CONNECTED = re.compile(r"fc([1-9]\d*)-([1-9]\d*)")


@dataclass(frozen=True)
class NetworkFacts:
    """What a network consists of.

    Attributes:
        activation: Non-linearity of the hidden units.
        output: Non-linearity of the output units.
        num_parameters: Numbers in its weights and biases.
        num_trainable: Those among them that are not frozen from the start.
    """

    activation: str
    output: str
    num_parameters: int
    num_trainable: int


def fully_connected_sizes(name: str) -> tuple[int, int] | None:
    """Number of hidden layers and their width that a name like "fc2-500" stands for, else None."""
    match = _FULLY_CONNECTED.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def check_network_name(name: str) -> None:
    """Refuse a name that stands for no network.

    Args:
        name: "conv", "conv-random" or "fc<layers>-<width>".

    Raises:
        UnknownNameError: It is none of these.
    """
    if name not in {"conv", "conv-random"} and fully_connected_sizes(name) is None:
        raise UnknownNameError("network", name, [*NETWORK_NAMES, "fc<layers>-<width>"])


def build_network(
    name: str, dataset: Dataset, *, seed: int, dropout: float = 0.0, weight_init: WeightInit = "default"
) -> nn.Sequential:
    """Build a network for a data set.

    Hidden units are tanh; output units are sigmoid for classification and tanh for regression.
    The weights are PyTorch's default draw, U(+-1/sqrt(fan_in)) for weights and biases alike, which is what
    the authors' code of Frenkel et al. (2021) uses under the name "He uniform".

    Args:
        name: "fc<layers>-<width>", "conv", or "conv-random" for kernels frozen at random.
        dataset: Gives the shape of the inputs and the number of outputs.
        seed: Seed of the weights; the global random state is left as it was.
        dropout: Probability of dropping at the input of every fully connected layer, in [0, 1).
        weight_init: "default", or "zero" for zero weights (biases keep their draw) in the fully
            connected layers.

    Returns:
        The network, on the data set's device.

    Raises:
        SettingError: The dropout is out of range.
    """
    check_network_name(name)
    if not 0 <= dropout < 1:
        raise SettingError(f"The dropout must be at least 0 and below 1, not {dropout}.")
    output: nn.Module = nn.Sigmoid() if dataset.task == "classification" else nn.Tanh()
    sizes = fully_connected_sizes(name)
    # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if sizes is not None:
            num_layers, width = sizes
            network = fully_connected(
                dataset.input_shape, [width] * num_layers, dataset.num_outputs, dropout=dropout, output=output
            )
        else:
            network = convolutional(
                dataset.input_shape,
                dataset.num_outputs,
                trained_kernels=name == "conv",
                dropout=dropout,
                output=output,
            )
    if weight_init == "zero":
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.weight)
    return network.to(dataset.x_train.device)


def network_facts(name: str, dataset: Dataset) -> NetworkFacts:
    """What the network of a name consists of on a data set.

    Args:
        name: As for `build_network`.
        dataset: Gives the shape of the inputs and the number of outputs.

    Returns:
        The facts.
    """
    network = build_network(name, dataset, seed=0)
    *_, hidden, _, output = network.children()
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return NetworkFacts(
        activation=type(hidden).__name__.lower(),
        output=type(output).__name__.lower(),
        num_parameters=sum(size for size, _ in sizes),
        num_trainable=sum(size for size, is_trained in sizes if is_trained),
    )
