"""Numbers that are no targets and no factor of a loss are refused before they teach anything."""

import math

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign import errors


def streaming_handle() -> fa.Handle:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    return fa.attach(model, fa.DRTP(), example_inputs=torch.randn(4, 5))


@pytest.mark.parametrize("targets", [torch.full((4, 3), 1.5), torch.full((4, 3), -0.1), torch.full((4, 3), torch.nan)])
def test_floating_targets_beyond_zero_and_one_are_refused(targets: Tensor) -> None:
    with pytest.raises(errors.TargetsError, match="zeros and ones"):
        streaming_handle().targets(targets)


@pytest.mark.parametrize("scale", [-1.0, math.nan, math.inf, torch.tensor([1.0, 1.0, -1.0, 1.0])])
def test_a_scale_that_no_loss_has_is_refused(scale: float | Tensor) -> None:
    with pytest.raises(errors.TargetsError, match="below zero or not finite"):
        streaming_handle().targets(torch.tensor([0, 1, 2, 0]), scale=scale)


def test_a_class_in_the_place_of_a_model_is_refused() -> None:
    with pytest.raises(errors.AttachError, match="instance"):
        fa.attach(nn.Linear, fa.DFA(), example_inputs=torch.randn(4, 5))


def test_a_batch_that_is_no_pair_is_refused() -> None:
    handle = streaming_handle()
    with pytest.raises(errors.AttachError, match="inputs, targets"):
        fa.measure.alignment(handle.model, nn.functional.cross_entropy, torch.randn(4, 5))
