"""Peak memory: allocations of known sizes."""

import torch
from torch import nn

import feedalign as fa
from feedalign.measure import peak_memory
from problems import draw

MEGABYTE = 1_000_000


def bytes_of(num_megabytes: int) -> torch.Tensor:
    return torch.empty(num_megabytes * MEGABYTE, dtype=torch.uint8)


def test_one_tensor_is_its_own_size() -> None:
    assert peak_memory(lambda: bytes_of(3)) == 3 * MEGABYTE


def test_the_peak_is_the_most_that_is_held_at_once() -> None:
    def step() -> None:
        first = bytes_of(4)
        del first
        second, third = bytes_of(1), bytes_of(2)
        del second, third
        bytes_of(3)

    assert peak_memory(step) == 4 * MEGABYTE


def test_tensors_held_together_add_up() -> None:
    def step() -> None:
        held = [bytes_of(1) for _ in range(5)]
        held.clear()
        bytes_of(2)

    assert peak_memory(step) == 5 * MEGABYTE


def test_what_was_held_before_does_not_count_and_what_is_freed_does_not_help() -> None:
    held = [bytes_of(5)]

    def step() -> None:
        held.clear()
        bytes_of(2)

    assert peak_memory(step) <= 2 * MEGABYTE
    assert peak_memory(lambda: None) == 0


def deep(num_layers: int) -> nn.Sequential:
    layers = [module for _ in range(num_layers) for module in (nn.Linear(64, 64), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def peak_of_streaming(num_layers: int) -> int:
    """One step's peak, less the gradients, which any rule must hold."""
    model, x, labels = deep(num_layers), draw(2000, 64, seed=1, dtype=torch.float32), torch.arange(2000) % 10
    handle = fa.attach(model, fa.DRTP(), example_inputs=x[:2])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        handle.targets(labels)
        nn.functional.cross_entropy(model(x), labels).backward()

    return peak_memory(step)


def peak_of_backprop(num_layers: int) -> int:
    model, x, labels = deep(num_layers), draw(2000, 64, seed=1, dtype=torch.float32), torch.arange(2000) % 10
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return peak_memory(lambda: nn.functional.cross_entropy(model(x), labels).backward())


def test_streaming_holds_no_more_activations_in_a_deeper_network() -> None:
    assert peak_of_streaming(16) <= 1.1 * peak_of_streaming(4)
    assert peak_of_backprop(16) > 2 * peak_of_backprop(4)
