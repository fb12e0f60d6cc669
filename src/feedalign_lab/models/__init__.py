"""Networks by name, with the weights drawn from a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.errors import SettingError
from feedalign_lab.models.convolutional import alexnet, alexnet_small, frenkel_cnn, shallow_cnn
from feedalign_lab.models.fully_connected import fully_connected
from feedalign_lab.models.naming import Family, NetworkName, parse_network_name
from feedalign_lab.models.recurrent import recurrent
from feedalign_lab.models.stack import Stack
from feedalign_lab.names import SERIES_NAMES

__all__ = [
    "NetworkFacts",
    "NetworkName",
    "WeightInit",
    "build_network",
    "network_facts",
    "parse_network_name",
]

WeightInit = Literal["default", "zero"]

_OF_IMAGES: dict[Family, Callable[[Stack, int], nn.Sequential]] = {
    "cnn": shallow_cnn,
    "alexnet": alexnet,
    "alexnet-small": alexnet_small,
}


@dataclass(frozen=True)
class NetworkFacts:
    """What a network consists of.

    Attributes:
        activation: Non-linearity of the hidden units.
        output: Non-linearity of the output units, "linear" for none.
        batch_norm: Whether layers are batch-normalized before their activation.
        num_parameters: Numbers in its weights and biases.
        num_trainable: Those among them that are not frozen from the start.
    """

    activation: str
    output: str
    batch_norm: bool
    num_parameters: int
    num_trainable: int


def build_network(
    name: str, dataset: Dataset, *, seed: int, dropout: float = 0.0, weight_init: WeightInit = "default"
) -> nn.Sequential:
    """Build a network for a data set.

    Of the families fc and conv: hidden units are tanh; output units are sigmoid for classification and tanh for
    regression. Of mlp, cnn and alexnet: hidden units are ReLU, output units linear. Of rnn, gru, gru-before and lstm:
    output units are linear, behind the last step, or behind every step where every step has targets.
    The weights are PyTorch's default draw, U(+-1/sqrt(fan_in)) for weights and biases alike, which is what the
    authors' codes of Frenkel et al. (2021) and of Bacho and Chu (2024) use under the names "He uniform" and "uniform
    Kaiming".

    Args:
        name: "fc<layers>-<width>", "conv", "conv-random" for kernels frozen at random, "mlp<layers>-<width>" with
            "-bn" for batch normalization, "cnn", "cnn-bn", "alexnet", "alexnet-small"; "rnn-<width>", "gru-<width>",
            "gru-before-<width>", "lstm-<width>" with "-x<layers>" for more than one layer.
        dataset: Gives the shape of the inputs and the number of outputs.
        seed: Seed of the weights; the global random state is left as it was.
        dropout: Probability of dropping at the input of every fully connected layer, in [0, 1).
        weight_init: "default", or "zero" for zero weights (biases keep their draw) in the fully
            connected layers.

    Returns:
        The network, on the data set's device.

    Raises:
        SettingError: The dropout is out of range, or inputs or targets are not what such a network takes.
    """
    parsed = parse_network_name(name)
    if not 0 <= dropout < 1:
        raise SettingError(f"The dropout must be at least 0 and below 1, not {dropout}.")
    # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = _build(parsed, dataset, dropout)
    if weight_init == "zero":
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.weight)
    return network.to(dataset.x_train.device)


def _build(name: NetworkName, dataset: Dataset, dropout: float) -> nn.Sequential:
    """The network as it is drawn from the global random state."""
    _refuse_other_shapes(name, dataset)
    activation: type[nn.Module] = nn.ReLU if name.is_rectified else nn.Tanh
    stack = Stack(dataset.input_shape, activation, dropout=dropout, has_batch_norm=name.has_batch_norm)
    if name.is_recurrent:
        is_every_step = dataset.task == "forecasting"
        return recurrent(stack, name, dataset.input_shape[-1], dataset.num_outputs, is_every_step=is_every_step)
    output = {"sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "linear": None}[name.output(dataset.task)]
    if name.family in {"fc", "mlp"}:
        return fully_connected(stack, [name.width] * name.num_hidden, dataset.num_outputs, output)
    if output is not None:
        is_trained = name.family == "conv"
        shape, num_outputs = dataset.input_shape, dataset.num_outputs
        return frenkel_cnn(stack, shape, num_outputs, trained_kernels=is_trained, output=output)
    if len(dataset.input_shape) != 3:
        raise SettingError(
            f"The network {name.text} takes images, not inputs of {dataset.input_shape}: choose a network such as "
            "mlp2-800."
        )
    return _OF_IMAGES[name.family](stack, dataset.num_outputs)


def _refuse_other_shapes(name: NetworkName, dataset: Dataset) -> None:
    """Refuse series in a network that has no steps, if every step has targets, and all else in a recurrent one."""
    if name.is_recurrent and len(dataset.input_shape) != 2:
        raise SettingError(
            f"The network {name.text} reads series step by step, and {dataset.name} has none: choose a network such as "
            f"fc1-500, or one of the data sets {', '.join(SERIES_NAMES)}."
        )
    if dataset.task == "forecasting" and not name.is_recurrent:
        raise SettingError(
            f"{dataset.name} has a target at every step, and the network {name.text} has no steps: choose a recurrent "
            "one such as gru-50."
        )


def network_facts(name: str, network: nn.Sequential, dataset: Dataset) -> NetworkFacts:
    """What a network consists of.

    Args:
        name: Its name.
        network: The network itself.
        dataset: The data set it is for.

    Returns:
        The facts.
    """
    parsed = parse_network_name(name)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return NetworkFacts(
        activation=parsed.activation,
        output=parsed.output(dataset.task),
        batch_norm=parsed.has_batch_norm,
        num_parameters=sum(size for size, _ in sizes),
        num_trainable=sum(size for size, is_trained in sizes if is_trained),
    )
