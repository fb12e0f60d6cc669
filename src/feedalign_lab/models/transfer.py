"""Transfer learning: convolutions that were trained before and stay as they are, under a classifier that learns."""

from collections.abc import Mapping
from itertools import takewhile

from torch import Tensor, nn

Features = Mapping[str, Tensor]
"""Weights, biases and running statistics of the convolutional part, by their names in the network."""

_FIRST_OF_CLASSIFIER = "flatten"
_ACTIVATIONS = (nn.ReLU, nn.Tanh)


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization that stays in evaluation mode: it uses the statistics it was trained with, and keeps them.

    In training mode, frozen convolutions would still give each image features that depend on the rest of its batch, and
    the running statistics would go on moving: the features would not be the same for every rule.
    """

    def train(self, mode: bool = True) -> "FrozenBatchNorm2d":
        """Stay in evaluation mode, whatever is asked for."""
        del mode
        super().train(False)
        return self


def features_of(network: nn.Module) -> Features:
    """The state of the convolutional part of a network: all that stands before its flatten layer.

    Args:
        network: A convolutional network of this package.

    Returns:
        A copy of its weights, biases and running statistics.
    """
    prefixes = tuple(f"{name}." for name in _feature_layers(network))
    return {key: tensor.clone() for key, tensor in network.state_dict().items() if key.startswith(prefixes)}


def freeze_features(network: nn.Sequential, features: Features) -> None:
    """Give a network trained convolutions and freeze them, batch normalization included; in place.

    Args:
        network: A convolutional network of this package; its classifier stays as it is.
        features: What `features_of` returned for a network of the same name.
    """
    for name in _feature_layers(network):
        layer = network.get_submodule(name)
        if isinstance(layer, nn.BatchNorm2d):
            setattr(network, name, FrozenBatchNorm2d(layer.num_features, device=layer.weight.device).eval())
    network.load_state_dict({**network.state_dict(), **features})
    for name in _feature_layers(network):
        network.get_submodule(name).requires_grad_(False)


def classifier_points(network: nn.Sequential) -> list[str]:
    """Names of the activations of the classifier's hidden layers: where teaching signals enter it."""
    frozen = set(_feature_layers(network))
    last = len(network) - 1
    return [
        name
        for position, (name, layer) in enumerate(network.named_children())
        if name not in frozen and position != last and isinstance(layer, _ACTIVATIONS)
    ]


def _feature_layers(network: nn.Module) -> list[str]:
    return list(takewhile(lambda name: name != _FIRST_OF_CLASSIFIER, (name for name, _ in network.named_children())))
