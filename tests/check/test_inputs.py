"""What `check` reads a model on when it is given no inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from attach.model_state import left_as_it_was
from check.pretrained import PRETRAINED
from check.vision import cnn, mlp

WORDS = [case for case in PRETRAINED if case.name in {"gpt2", "bert", "llama"}]


@pytest.mark.parametrize("case", WORDS, ids=str)
def test_models_of_transformers_bring_their_own(case: Any) -> None:
    model = case.model()
    with left_as_it_was(model):
        found = fa.check(model, output=case.options["output"])
    given = fa.check(model, case.batch(), output=case.options["output"])
    assert found.notes[0] == "read on the model's own dummy_inputs"
    assert (found.layers, found.points, found.suggestions) == (given.layers, given.points, given.suggestions)


def test_steps_of_an_encoder_and_of_its_decoder_are_not_mistaken_for_each_other() -> None:
    (t5,) = (case for case in PRETRAINED if case.name == "t5")
    assert len({tensor.shape for tensor in t5.model().dummy_inputs.values()}) == 1
    found = fa.check(t5.model(), output="lm_head")
    assert found.refusal is not None
    assert found.refusal.startswith("AmbiguousShapeError")
    assert found.assumed is not None
    assert all(name.startswith("decoder.") for name in found.points)


def test_models_of_images_are_asked_for_inputs() -> None:
    (vit,) = (case for case in PRETRAINED if case.name == "vit")
    found = fa.check(vit.model())
    assert found.refusal is not None
    assert found.refusal.startswith("ExampleInputsError: The model does not run on the example inputs")
    assert found.notes == ("read on the model's own dummy_inputs",)


@pytest.mark.parametrize("make", [
    mlp,
    lambda: nn.Sequential(nn.Flatten(), mlp()),
    lambda: nn.Sequential(nn.Sequential(nn.Identity(), nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 2)).double(),
])  # fmt: skip
def test_chains_that_start_with_a_linear_layer_need_none(make: Any) -> None:
    before = torch.get_rng_state()
    model = make()
    torch.set_rng_state(before)
    found = fa.check(model)
    assert found.ok
    assert found.notes == ("read on random inputs of shape (2, 6)",)
    assert torch.equal(torch.get_rng_state(), before)


def test_models_without_values_are_read_too() -> None:
    with torch.device("meta"):
        model = mlp()
    found = fa.check(model)
    assert found.layers == fa.check(mlp()).layers
    assert found.refusal is not None
    assert "meta device" in found.refusal
    assert all(parameter.is_meta for parameter in model.parameters())


class Custom(nn.Sequential):
    """A forward of its own, which may be called with anything."""

    def forward(self, x: Tensor, scale: float) -> Tensor:
        return super().forward(x) * scale


@pytest.mark.parametrize("model", [cnn(), Custom(nn.Linear(6, 3)), nn.Sequential(), nn.GRU(3, 4)], ids=str)
def test_others_are_asked_for_inputs(model: nn.Module) -> None:
    found = fa.check(model)
    assert found.refusal is not None
    assert "give example_inputs=" in found.refusal
    assert found.layers == ()
    assert str(found).count("\n") == 1
