"""Verdicts, reasons, notes and suggestions of `check`, on models whose faults are known."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from attach.model_state import left_as_it_was
from check.awkward import AttentionByKeyword, Skip, StopGradient, series, vectors
from check.generative import VAE, LossAlone, LossInside, MultiHead, TwoTowers, labelled, pairs
from check.generative import vectors as wide_vectors
from check.sequences import (
    CellByCell,
    LSTMClassifier,
    Seq2Seq,
    Seq2SeqOwnStart,
    TransformerEncoder,
    source_and_target,
    tokens,
)
from check.vision import UNet, images, mlp
from feedalign import errors


def notes(found: fa.Check) -> str:
    return "\n".join(found.notes)


def refusal_of(model: Any, inputs: Any, rule: fa.Rule, **options: Any) -> errors.FeedalignError:
    with pytest.raises(errors.FeedalignError) as caught:
        fa.attach(model, rule, example_inputs=inputs, **options)
    return caught.value


def test_a_model_that_the_rule_teaches_is_fine() -> None:
    found = fa.check(mlp())
    assert (found.verdict, found.ok, found.refusal, found.suggestions) == ("fine", True, None, ())
    assert [(row.layer, row.taught_by, row.points) for row in found.layers] == [
        ("0", ("rule",), ("1",)), ("2", ("rule",), ("3",)), ("4", ("error",), ()),
    ]  # fmt: skip
    assert found.points == ("1", "3")
    assert "fine: the rule teaches every layer below the output" in str(found)


def test_a_leak_makes_it_partly() -> None:
    found = fa.check(Skip(), vectors())
    assert (found.verdict, found.ok) == ("partly", False)
    assert found.layer("stem") == fa.LayerCheck("stem", ("rule", "backprop"), ("act",), ("fc",), ("head",))
    text = str(found)
    assert "partly: exact backprop reaches 1 of 3 layers around the rule" in text
    assert "stem   rule + backprop  act              fc; backprop: head" in text
    assert (
        "> try points=['stem', 'act']: 2 points on the main path, those that there are among them: every path" in text
    )


class KeepsTrainable(nn.Module):
    """Its checkpoints hold what is trained, as those of adapters do."""

    num_asked = 0

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.num_asked += 1
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trained}


class KeepsNothing(KeepsTrainable):
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


def sparsely_embedded() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


REFUSED = [
    (lambda: torch.jit.script(mlp()), torch.randn(2, 6), fa.DFA(), {}),
    (TransformerEncoder, tokens(), fa.DFA(), {}),
    (Seq2Seq, source_and_target(), fa.DFA(), {}),
    (Seq2SeqOwnStart, source_and_target(), fa.DFA(), {}),
    (CellByCell, torch.randn(3, 4, 5), fa.DFA(), {}),
    (MultiHead, wide_vectors(), fa.DFA(), {}),
    (TwoTowers, pairs(), fa.DFA(), {}),
    (LossAlone, labelled(), fa.DFA(), {}),
    (LossInside, labelled(), fa.DFA(), {"output": "haed"}),
    (LossInside, labelled(), fa.DFA(), {"output": "head", "points": "axt"}),
    (LossInside, labelled(), fa.DFA(), {"output": "head", "points": []}),
    (UNet, images(), fa.DFA(), {}),
    (mlp, torch.randn(2, 7), fa.DFA(), {}),
    (mlp, "text", fa.DFA(), {}),
    (mlp, torch.randn(2, 6), fa.DRTP(), {}),
    (mlp, torch.randn(2, 6), fa.DFA, {}),
    (lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(2, 6), fa.LocalGreedy(), {}),
    (lambda: nn.Linear, torch.randn(2, 6), fa.DFA(), {}),
    (lambda: "model", torch.randn(2, 6), fa.DFA(), {}),
    (lambda: mlp().to("meta"), torch.randn(2, 6).to("meta"), fa.DFA(), {}),
    (lambda: mlp().to("meta"), torch.randn(2, 6).to("meta"), fa.FA(), {}),
    (lambda: mlp().to("meta"), torch.randn(2, 6).to("meta"), fa.FDFA(), {}),
    (Skip, vectors(), {"fc": fa.FDFA(num_perturbations=2), "*": fa.ActivityPerturbed()}, {}),
    (lambda: Skip().to("meta"), vectors().to("meta"), fa.WeightPerturbed(per="sample", num_perturbations=2), {}),
    (KeepsTrainable, torch.randn(2, 6), fa.DFA(), {}),
    (KeepsNothing, torch.randn(2, 6), fa.DKP(), {}),
    (Skip, vectors(), fa.DFA(limits=fa.Limits(delay=1)), {}),
    (sparsely_embedded, torch.arange(3), fa.DKP(limits=fa.Limits(delay=1)), {}),
]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # It is what users may still have.
@pytest.mark.parametrize(("make", "inputs", "rule", "options"), REFUSED)
def test_where_attach_raises_its_sentence_is_told(make: Any, inputs: Any, rule: Any, options: dict[str, Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
    error = refusal_of(model, inputs, rule, **options)
    found = fa.check(model, inputs, rule, **options)
    assert found.refusal == f"{type(error).__name__}: {error}"
    assert (found.verdict, found.ok) == ("refused", False)
    assert f"refused: attach raises {type(error).__name__}" in str(found)
    for suggestion in found.suggestions:
        better = suggestion.rule or rule
        fa.attach(model, better, example_inputs=inputs, **{**options, **suggestion.arguments}).remove()
    assert (found.assumed is None) == (not found.suggestions)


@pytest.mark.parametrize("rule", [fa.Shallow(), fa.Backprop(), fa.USF()], ids=repr)
@pytest.mark.parametrize("make", [KeepsTrainable, lambda: mlp().to("meta")])
def test_a_rule_that_holds_nothing_loses_nothing(make: Any, rule: fa.Rule) -> None:
    model = make()
    inputs = torch.randn(2, 6, device=next(model.parameters()).device)
    assert fa.check(model, inputs, rule).ok
    fa.attach(model, rule, example_inputs=inputs)


def test_a_state_dict_of_the_models_own_is_asked_once() -> None:
    model = KeepsTrainable()
    found = fa.check(model, torch.randn(2, 6), points="body.1")
    assert found.refusal is not None
    assert model.num_asked == 1
    assert [row.layer for row in found.layers] == ["body.0", "body.2", "body.4"]


def test_where_the_way_out_is_refused_in_turn_that_is_said() -> None:
    model = LossAlone().to("meta")
    found = fa.check(model, {name: value.to("meta") for name, value in labelled().items()})
    assert found.refusal is not None
    assert found.refusal.startswith("OutputError")
    assert "with what is suggested attach raises AttachError: The model is on the meta device" in notes(found)


def test_a_rule_that_is_attached_already_is_left_attached() -> None:
    model = mlp()
    handle = fa.attach(model, fa.DFA(), example_inputs=torch.randn(2, 6))
    found = fa.check(model)
    assert found.refusal is not None
    assert found.refusal.startswith("AlreadyAttachedError")
    assert fa.handle_of(model) is handle


def test_operations_without_forward_derivatives_show_before_training() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act, self.head = nn.Linear(6, 5), nn.Tanh(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.act(self.fc(x))
            return self.head(torch.cdist(h, torch.ones(4, 5)))

    model, inputs = Counts(), vectors()
    with left_as_it_was(model):
        found = fa.check(model, inputs, fa.FDFA())
    assert found.refusal == f"ForwardModeError: {refusal_of(Counts(), vectors(), fa.FDFA())}"
    assert fa.check(Counts(), vectors()).ok


@pytest.mark.parametrize(("make", "points"), [
    (TransformerEncoder, ["embedding", "encoder.layers.0.norm1", "encoder.layers.0", "encoder.layers.1.norm1"]),
    (Seq2SeqOwnStart, ["target", "decoder", "act"]),
    (Seq2Seq, ["target", "act"]),
    (CellByCell, ["cell", "act"]),
])  # fmt: skip
def test_points_that_work_are_found_where_the_default_is_refused(make: Any, points: list[str]) -> None:
    inputs = {TransformerEncoder: tokens, CellByCell: lambda: torch.randn(3, 4, 5)}.get(make, source_and_target)()
    found = fa.check(make(), inputs)
    assert found.assumed is not None
    assert found.assumed.arguments["points"][: len(points)] == points
    assert found.points
    assert found.layers


def test_recurrent_modules_left_whole_are_named() -> None:
    found = fa.check(Seq2Seq(), source_and_target())
    assert "encoder, decoder run as they are: backprop through time stays exact within them" in notes(found)
    assert "through time" not in notes(fa.check(LSTMClassifier(), tokens()))


def test_the_output_is_found_in_a_loss() -> None:
    found = fa.check(LossAlone(), labelled())
    assert [str(suggestion) for suggestion in found.suggestions] == [
        "output='head': the error is taken at its output, from which the loss is computed"
    ]
    assert found.output == "the output of 'head'"
    assert fa.check(LossInside(), labelled()).suggestions[0].why.endswith("'logits'")


def test_several_results_are_named_with_what_losses_on_them_teach() -> None:
    found = fa.check(MultiHead(), wide_vectors())
    assert [suggestion.output for suggestion in found.suggestions] == ["classes", "box.2"]
    assert "'classes' by 'classes', 'box' by 'box.2'" in notes(found)
    chosen = fa.check(MultiHead(), wide_vectors(), output="classes")
    assert chosen.verdict == "partly"
    assert chosen.layer("box.0").why == "has no part in the output, but in 'box'"
    assert "a loss on 'box', returned beside the output, teaches box.0, box.2 by exact gradients" in notes(chosen)
    assert fa.check(MultiHead(), wide_vectors(), fa.FA(), output="classes").ok


def test_a_loss_on_a_code_teaches_what_makes_it() -> None:
    found = fa.check(VAE(), wide_vectors(), output="decoder.2")
    assert found.ok
    assert "a loss on '[1]' or '[2]', returned beside the output, teaches mean, log_variance by exact" in notes(found)


def test_results_of_a_module_that_fires_twice_serve_for_no_output() -> None:
    found = fa.check(TwoTowers(), pairs())
    assert found.suggestions == ()
    assert "output='tower.3' does not serve: output='tower.3' fired 2 times" in notes(found)
    assert "'[0]' and '[1]' by 'tower.3'" in notes(found)


def test_results_that_no_module_makes_are_told() -> None:
    class Functional(Skip):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": torch.tanh(self.joined(x)) @ self.head.weight.T}

    found = fa.check(Functional(), vectors())
    assert found.suggestions == ()
    assert "no module makes what the model returns" in notes(found)

    class Named(Skip):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Identity()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.logits(torch.tanh(self.joined(x)) @ self.head.weight.T)}

    assert fa.check(Named(), vectors()).suggestions[0].output == "logits"


def test_what_no_module_returns_is_to_be_cut_by_hand() -> None:
    found = fa.check(AttentionByKeyword(), series())
    assert "put a fa.FeedbackPoint() on what head takes" in notes(found)

    class ByHand(AttentionByKeyword):
        def __init__(self) -> None:
            super().__init__()
            self.point = fa.FeedbackPoint()

        def forward(self, x: Tensor) -> Tensor:
            h = self.joined(x)
            return self.head(self.point(self.attention(query=h, key=h, value=h, need_weights=False)[0]))

    assert fa.check(ByHand(), series()).ok


def test_layer_wise_rules_are_told_what_sends_true_weights() -> None:
    found = fa.check(TransformerEncoder(), tokens(), fa.FA())
    assert found.verdict == "partly"
    assert "a direct rule such as fa.DFA() cuts there" in notes(found)
    assert found.suggestions == ()


def test_layers_that_nothing_teaches_have_a_reason() -> None:
    model = StopGradient()
    model.spare = nn.Linear(2, 2)
    model.stem.requires_grad_(False)
    found = fa.check(model, vectors())
    assert found.layer("teacher").why.startswith("no gradient leads to it from the output: a detach()")
    assert found.layer("hidden").why == "runs without gradients, as under torch.no_grad()"
    assert found.layer("spare").why == "does not run on the example inputs"
    assert "frozen (requires_grad=False): stem" in notes(found)
    assert found.verdict == "partly"
    assert "partly: nothing teaches 2 of 5 layers; 1 of 5 layers does not run\n" in str(found)


def test_a_model_of_one_layer_has_nothing_to_teach() -> None:
    found = fa.check(nn.Sequential(nn.Linear(6, 3)), vectors())
    assert found.verdict == "refused"
    assert "nothing for a rule to teach" in notes(found)
    assert "nothing for a rule to teach" not in notes(fa.check(TransformerEncoder(), tokens()))


def test_unused_layers_do_not_spoil_the_verdict() -> None:
    model = mlp()
    holder = nn.Module()
    holder.add_module("spare", nn.Linear(2, 2))
    model[4].add_module("unused", holder)
    found = fa.check(model)
    assert found.ok
    assert "fine: 1 of 4 layers does not run\n" in str(found)


def test_shallow_teaches_nothing_on_purpose() -> None:
    found = fa.check(mlp(), rule=fa.Shallow())
    assert found.ok
    assert found.layer("0") == fa.LayerCheck("0", (), ("1",), why="the rule sends no signal to its points, on purpose")
    assert "fine: the rule sends no signal to 2 of 3 layers, on purpose\n" in str(found)
    assert fa.check(Skip(), vectors(), fa.Shallow()).verdict == "partly"


@pytest.mark.parametrize("rule", [fa.Backprop(), fa.NoisyBackprop(), fa.WeightPerturbed(), fa.FA()])
def test_rules_without_points_are_fine(rule: fa.Rule) -> None:
    found = fa.check(mlp(), rule=rule)
    assert found.ok
    assert found.points == ()
    assert ("exact gradients teach" in str(found)) == isinstance(rule, fa.Backprop)


def test_a_mixture_names_its_rules_and_leaks_nothing_on_purpose() -> None:
    found = fa.check(mlp(), rule={"0": fa.Backprop(), "*": fa.DFA()})
    assert found.ok
    assert "Backprop() + DFA(" in found.rule


def test_signals_through_many_layers_are_worth_a_suggestion() -> None:
    layers: list[nn.Module] = [nn.Linear(4, 4) for _ in range(6)]
    found = fa.check(nn.Sequential(*layers, nn.Tanh(), nn.Linear(4, 2)))
    assert found.ok
    assert found.suggestions[0].points is not None
    assert "a signal passes the true weights of 0 layers at most, not of 5" in found.suggestions[0].why


def test_the_result_is_plain_data_too() -> None:
    found = fa.check(Skip(), vectors())
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["verdict"] == "partly"
    assert plain["ok"] is False
    assert plain["suggestions"][0]["points"] == ["stem", "act"]
    assert plain["layers"][0] == {
        "layer": "stem", "taught_by": ["rule", "backprop"], "points": ["act"], "through": ["fc"], "leaks": ["head"],
        "why": "",
    }  # fmt: skip


def test_a_refusal_changes_nothing_in_the_model() -> None:
    for model, inputs in ((Seq2Seq(), source_and_target()), (UNet(), images()), (TwoTowers(), pairs())):
        with left_as_it_was(model):
            assert not fa.check(model, inputs).ok
