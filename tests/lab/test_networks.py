"""The networks: shapes, names, parameter counts, seeds."""

import dataclasses

import pytest
import torch
from torch import nn

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.models import build_network, parse_network_name


def dataset_of(shape: tuple[int, ...], regression: bool = False) -> Dataset:
    x = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(4, 10) if regression else torch.zeros(4, dtype=torch.int64)
    task = "regression" if regression else "classification"
    return Dataset("made", x, y, x, y, None if regression else 10, task, "none")


MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "num_parameters"),
    [
        ("fc1-500", MNIST, 785 * 500 + 501 * 10),
        ("fc2-1000", MNIST, 785 * 1000 + 1001 * 1000 + 1001 * 10),
        ("fc1-500", CIFAR, 3073 * 500 + 501 * 10),
        ("fc3-20", (64,), 65 * 20 + 2 * 21 * 20 + 21 * 10),
        ("conv", MNIST, 32 * 26 + 6273 * 1000 + 1001 * 10),
        ("conv", CIFAR, 64 * 28 + 256 * 577 + 16385 * 1000 + 1001 * 1000 + 1001 * 10),
    ],
)
def test_parameters_and_output(name: str, shape: tuple[int, ...], num_parameters: int) -> None:
    dataset = dataset_of(shape)
    network = build_network(name, dataset, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    output = network(dataset.x_train)
    assert output.shape == (4, 10)
    assert 0 < float(output.min().detach()) <= float(output.max().detach()) < 1


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    [
        ("rnn-5", 5 * (3 + 5 + 2)),
        ("gru-5", 3 * 5 * (3 + 5 + 2)),
        ("lstm-5", 4 * 5 * (3 + 5 + 2)),
        ("gru-5-x2", 3 * 5 * (3 + 5 + 2) + 3 * 5 * (5 + 5 + 2)),
    ],
)
@pytest.mark.parametrize("is_forecast", [False, True])
def test_recurrent_networks(name: str, num_parameters: int, is_forecast: bool) -> None:
    dataset = dataset_of((7, 3))
    if is_forecast:
        dataset = dataclasses.replace(dataset, y_train=torch.zeros(4, 7, 10), num_classes=None, task="forecasting")
    network = build_network(name, dataset, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters + 6 * 10
    assert network(dataset.x_train).shape == ((4, 7, 10) if is_forecast else (4, 10))
    names = [child for child, _ in network.named_children()]
    assert names == [name.partition("-")[0], "steps" if is_forecast else "last", "fc1"]


def test_classes_are_read_out_of_the_last_step() -> None:
    dataset = dataset_of((7, 3))
    network = build_network("gru-5", dataset, seed=0, dropout=0.5).eval()
    assert [child for child, _ in network.named_children()] == ["gru", "last", "dropout1", "fc1"]
    output, state = network.get_submodule("gru")(dataset.x_train)
    torch.testing.assert_close(network(dataset.x_train), network.get_submodule("fc1")(state[0]))
    assert output.shape == (4, 7, 5)


@pytest.mark.parametrize(
    ("name", "family", "num_hidden", "width"),
    [
        ("rnn-512", "rnn", 1, 512),
        ("gru-before-50", "gru-before", 1, 50),
        ("gru-before-50-x3", "gru-before", 3, 50),
        ("lstm-8-x2", "lstm", 2, 8),
    ],
)
def test_names_of_recurrent_networks(name: str, family: str, num_hidden: int, width: int) -> None:
    parsed = parse_network_name(name)
    assert (parsed.family, parsed.num_hidden, parsed.width) == (family, num_hidden, width)
    assert parsed.is_recurrent
    assert not parsed.is_rectified
    assert parsed.output("classification") == parsed.output("forecasting") == "linear"


@pytest.mark.parametrize("shape", [(8,), MNIST])
def test_recurrent_network_on_something_else_than_series(shape: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match=r"choose a network such as fc1-500, or one of the data sets row-mnist"):
        build_network("gru-8", dataset_of(shape), seed=0)


def test_network_without_steps_cannot_forecast_at_every_step() -> None:
    dataset = dataclasses.replace(
        dataset_of((7, 3)), num_classes=None, task="forecasting", y_train=torch.zeros(4, 7, 1)
    )
    with pytest.raises(SettingError, match="choose a recurrent one such as gru-50"):
        build_network("mlp1-8", dataset, seed=0)


def test_series_are_flattened_where_there_are_no_steps() -> None:
    dataset = dataset_of((7, 3))
    assert build_network("mlp1-8", dataset, seed=0)(dataset.x_train).shape == (4, 10)


def test_layer_names_read_well() -> None:
    conv = build_network("conv", dataset_of(CIFAR), seed=0)
    assert [name for name, _ in conv.named_children()] == [
        "conv1", "tanh1", "pool1", "conv2", "tanh2", "pool2", "flatten",
        "fc1", "tanh3", "fc2", "tanh4", "fc3", "output",
    ]  # fmt: skip
    fc = build_network("fc2-5", dataset_of((8,)), seed=0, dropout=0.1)
    assert [name for name, _ in fc.named_children()] == [
        "dropout1", "fc1", "tanh1", "dropout2", "fc2", "tanh2", "dropout3", "fc3", "output",
    ]  # fmt: skip


def test_random_kernels_are_frozen_and_trained_ones_are_not() -> None:
    frozen = build_network("conv-random", dataset_of(MNIST), seed=0)
    names = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert names == {"conv1.weight", "conv1.bias"}
    assert all(p.requires_grad for p in build_network("conv", dataset_of(MNIST), seed=0).parameters())


def test_weights_are_uniform_in_the_inverse_root_of_the_fan_in() -> None:
    weight = build_network("fc1-500", dataset_of(MNIST), seed=0).get_parameter("fc1.weight").detach()
    bound = 784**-0.5
    assert bound * 0.999 < float(weight.abs().max()) <= bound
    torch.testing.assert_close(weight.std(), torch.tensor(bound / 3**0.5), rtol=0.01, atol=0)


def test_zero_start_leaves_the_biases() -> None:
    network = build_network("fc2-5", dataset_of((8,)), seed=0, weight_init="zero")
    for name, parameter in network.named_parameters():
        assert bool((parameter == 0).all()) == name.endswith("weight")


def test_seed_decides_the_weights_and_global_state_stays() -> None:
    dataset = dataset_of((8,))
    before = torch.random.get_rng_state()
    first, again, other = (build_network("fc1-5", dataset, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.get_parameter("fc1.weight"), again.get_parameter("fc1.weight"))
    assert not torch.equal(first.get_parameter("fc1.weight"), other.get_parameter("fc1.weight"))


def test_regression_ends_in_tanh() -> None:
    network = build_network("fc1-5", dataset_of((8,), regression=True), seed=0)
    assert isinstance(network.get_submodule("output"), nn.Tanh)


@pytest.mark.parametrize(
    "name", ["fc1", "fc0-10", "fc1-0", "conv2", "fc1-500x", "gru", "gru-0", "gru-after-8", "rnn-8-x0", ""]
)
def test_unknown_networks(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"fc<layers>-<width>"):
        build_network(name, dataset_of((8,)), seed=0)


def test_conv_network_on_something_else_than_images() -> None:
    with pytest.raises(SettingError, match=r"choose a network such as fc1-500"):
        build_network("conv", dataset_of((64,)), seed=0)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_out_of_range(dropout: float) -> None:
    with pytest.raises(SettingError, match="dropout"):
        build_network("fc1-5", dataset_of((8,)), seed=0, dropout=dropout)
