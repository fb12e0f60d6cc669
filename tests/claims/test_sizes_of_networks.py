"""Networks are as large as the papers say.

Bacho & Chu 2024 print neurons and parameters of fully connected networks in Table B.5, with the output's layer counted.
It cuts 1.28 million to 1.2 M, so numbers are compared downwards. The Transformer's sizes are in Launay et al. 2020,
appendix C.
"""

import pytest
import torch
from torch import nn

from feedalign_lab.data.dataset import Dataset
from feedalign_lab.language.settings import SIZES
from feedalign_lab.models import build_network


@pytest.mark.parametrize(
    ("name", "num_inputs", "num_neurons", "num_parameters", "unit"),
    [
        ("mlp1-800", 28 * 28, 810, 636, 1_000),
        ("mlp2-800", 28 * 28, 1610, 12, 100_000),
        ("mlp3-800", 28 * 28, 2410, 19, 100_000),
        ("mlp1-1000", 3 * 32 * 32, 1010, 308, 10_000),
        ("mlp2-1000", 3 * 32 * 32, 2010, 408, 10_000),
        ("mlp3-1000", 3 * 32 * 32, 3010, 508, 10_000),
    ],
)
def test_neurons_and_parameters_are_those_in_print(
    name: str, num_inputs: int, num_neurons: int, num_parameters: int, unit: int
) -> None:
    x, y = torch.zeros(2, num_inputs), torch.zeros(2, dtype=torch.int64)
    network = build_network(name, Dataset("made", x, y, x, y, 10, "classification", "none"), seed=0)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert sum(layer.out_features for layer in layers) == num_neurons
    assert sum(parameter.numel() for parameter in network.parameters()) // unit == num_parameters


def test_the_transformer_of_the_paper() -> None:
    setting = SIZES["paper"]
    size = setting.size
    assert (size.num_layers, size.num_heads, size.width, size.inner_width) == (6, 8, 512, 2048)
    assert (setting.vocab_size, setting.batch_size, size.context) == (32_000, 64, 128)
