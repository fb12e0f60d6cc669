"""The ReLU networks of Bacho and Chu: shapes, names, loss."""

import pytest
import torch
from lab_training import train_learner
from made_data import made
from torch import nn

from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.learner import LearnerSpec, loss_name, make_learner
from feedalign_lab.models import build_network, network_facts, parse_network_name
from feedalign_lab.training import Schedule


def names(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_children()]


@pytest.mark.parametrize(
    ("name", "data", "num_parameters"),
    [
        ("mlp1-800", "mnist", 785 * 800 + 801 * 10),
        ("mlp3-1000", "cifar10", 3073 * 1000 + 2 * 1001 * 1000 + 1001 * 10),
        ("mlp2-8-bn", "mnist", 785 * 8 + 9 * 8 + 9 * 10 + 2 * 2 * 8),
        ("cnn", "mnist", 26 * 15 + 376 * 40 + 641 * 128 + 129 * 10),
        ("cnn", "cifar10", 76 * 15 + 376 * 40 + 1001 * 128 + 129 * 10),
        ("cnn-bn", "mnist", 26 * 15 + 376 * 40 + 641 * 128 + 129 * 10 + 2 * (15 + 40 + 128)),
    ],
)
def test_parameters_and_outputs(name: str, data: str, num_parameters: int) -> None:
    dataset = made(data)
    network = build_network(name, dataset, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == num_parameters
    assert network(dataset.x_train).shape == (16, 10)
    assert isinstance(list(network.children())[-1], nn.Linear)


def test_layers_are_named_by_kind_and_number() -> None:
    assert names(build_network("cnn-bn", made("mnist"), seed=0)) == [
        "conv1", "bn1", "relu1", "pool1", "conv2", "bn2", "relu2", "pool2", "flatten", "fc1", "bn3", "relu3", "fc2",
    ]  # fmt: skip
    assert names(build_network("mlp2-8", made("mnist"), seed=0, dropout=0.1)) == [
        "flatten", "dropout1", "fc1", "relu1", "dropout2", "fc2", "relu2", "dropout3", "fc3",
    ]  # fmt: skip
    network = build_network("alexnet-small", made("cifar10"), seed=0)
    assert names(network)[:8] == ["conv1", "bn1", "relu1", "pool1", "conv2", "bn2", "relu2", "pool2"]
    assert names(network)[-6:] == ["flatten", "fc1", "relu6", "fc2", "relu7", "fc3"]
    assert not any(module.inplace for module in network.modules() if isinstance(module, nn.ReLU))


def test_alexnet_has_the_sizes_of_its_one_tower_form() -> None:
    # On the meta device, where sixty million parameters cost nothing.
    dataset = made("cifar10").to("meta")
    with torch.device("meta"):
        network = build_network("alexnet", dataset, seed=0)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 192, 384, 256, 256]
    assert [layer.kernel_size[0] for layer in convolutions] == [11, 5, 3, 3, 3]
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(9216, 4096), (4096, 4096), (4096, 10)]
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 5
    assert network(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_alexnet_small_takes_images_of_both_sizes() -> None:
    for data in ("mnist", "cifar10"):
        assert build_network("alexnet-small", made(data), seed=0)(made(data).x_train).shape == (16, 10)


@pytest.mark.parametrize("name", ["cnn", "alexnet-small"])
def test_images_that_are_too_small_or_no_images(name: str) -> None:
    with pytest.raises(SettingError, match=r"nothing is left of them. Choose .* such as mlp2-800"):
        build_network(name, made("mnist", shape=(1, 6, 6)), seed=0)
    with pytest.raises(SettingError, match=rf"The network {name} takes images, not inputs of \(64,\): choose"):
        build_network(name, made("digits", shape=(64,)), seed=0)


@pytest.mark.parametrize("name", ["mlp0-8", "mlp2-8-BN", "mlp2-8-bn-bn", "fc2-8-bn", "cnn2", "alexnet-bn"])
def test_names_of_no_network(name: str) -> None:
    with pytest.raises(UnknownNameError, match=r"mlp<layers>-<width>-bn"):
        parse_network_name(name)


@pytest.mark.parametrize(
    ("network", "data", "loss", "output"),
    [
        ("mlp1-8", "mnist", "cross_entropy", "linear"),
        ("fc1-8", "mnist", "binary_cross_entropy", "sigmoid"),
        ("mlp1-8", "synthetic-regression", "mse_loss", "linear"),
        ("fc1-8", "synthetic-regression", "mse_loss", "tanh"),
    ],
)
def test_the_loss_goes_with_the_output(network: str, data: str, loss: str, output: str) -> None:
    dataset = made(data)
    assert loss_name(network, dataset.task) == loss
    assert network_facts(network, build_network(network, dataset, seed=0), dataset).output == output
    learner = make_learner(LearnerSpec("dfa", network, 1e-3), dataset)
    assert learner.loss_function.__name__ == loss


def test_loss_is_that_of_class_numbers() -> None:
    dataset = made("mnist")
    learner = make_learner(LearnerSpec("backprop", "mlp1-8", 1e-3), dataset)
    output = learner.model(dataset.x_train)
    loss = learner.loss_function(output, dataset.encode(dataset.y_train))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(output, dataset.y_train))


@pytest.mark.parametrize("network", ["mlp2-32", "mlp2-32-bn", "cnn", "cnn-bn"])
@pytest.mark.parametrize("rule", ["backprop", "dfa", "dkp", "fdfa"])
def test_they_learn(network: str, rule: str) -> None:
    spec = LearnerSpec(rule, network, 2e-3, feedback_learning_rate=1e-3 if rule in {"dkp", "fdfa"} else None)
    dataset = made("mnist", 40)
    result = train_learner(make_learner(spec, dataset), spec, Schedule(8, 8), dataset)
    assert result.status == "finished"
    assert result.epochs[-1].train_loss < 0.9 * result.epochs[0].train_loss


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_of_one_under_batch_normalization(batch_size: int) -> None:
    spec = LearnerSpec("dfa", "mlp1-8-bn", 1e-3)
    dataset = made("mnist", 16)
    with pytest.raises(SettingError, match="would hold a single one: choose another batch size"):
        train_learner(make_learner(spec, dataset), spec, Schedule(1, batch_size), dataset)
    plain = LearnerSpec("dfa", "mlp1-8", 1e-3)
    assert train_learner(make_learner(plain, dataset), plain, Schedule(1, batch_size), dataset).status == "finished"
