"""The variance of gradient estimates, against closed forms and against per-sample gradients made by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.errors import AttachError
from feedalign.measure import estimates
from problems import draw

NUM_SAMPLES = 6
x, y = draw(NUM_SAMPLES, 4, seed=1), torch.arange(NUM_SAMPLES) % 3


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=10 + number) / 2)
    return model


def attached(rule: fa.Rule, make: Callable[[], nn.Module] = network) -> nn.Module:
    model = make()
    fa.attach(model, rule, example_inputs=x)
    return model


def exact_gradients(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    parameters = [p for name, p in model.named_parameters() if "feedalign" not in name]
    return list(torch.autograd.grad(F.cross_entropy(model(inputs), targets), parameters))


def per_sample(layer: int, size: int = 1) -> Tensor:
    """Backprop's gradients of a weight, one for each group of samples."""
    starts = range(0, NUM_SAMPLES, size)
    return torch.stack([exact_gradients(network(), x[i : i + size], y[i : i + size])[2 * layer] for i in starts])


@pytest.mark.parametrize("size", [1, 2, 3])
def test_backprop_has_the_variance_of_sampling_alone(size: int) -> None:
    found = fa.measure.variance(attached(fa.Backprop()), F.cross_entropy, (x, y), group_size=size)
    for row, layer in zip(found.layers, (0, 1), strict=True):
        groups = per_sample(layer, size)
        assert row.estimation == 0
        assert row.sampling == pytest.approx(float(groups.var(0, correction=1).sum()), rel=1e-12)
        assert row.squared_norm == pytest.approx(float(groups.square().sum()) / len(groups), rel=1e-12)
        assert row.normalised == pytest.approx(row.sampling / row.squared_norm)
        assert row.num_entries == groups[0].numel()


def test_the_last_group_that_is_not_full_is_left_out() -> None:
    model = attached(fa.ActivityPerturbed())
    whole = fa.measure.variance(model, F.cross_entropy, (x, y), group_size=4, num_draws=3)
    part = fa.measure.variance(model, F.cross_entropy, (x[:4], y[:4]), group_size=4, num_draws=3)
    assert math.isnan(whole["0"].sampling)
    assert [row.estimation for row in whole.layers] == [row.estimation for row in part.layers]


def test_forward_gradients_of_one_sample_have_the_closed_form() -> None:
    # One-sample formulas with every parameter perturbed: Var g_ij = g_ij^2 + |g|^2. Of so many draws the measured sum
    # has a relative standard error below 2 %.
    model = attached(fa.WeightPerturbed())
    found = fa.measure.variance(model, F.cross_entropy, (x[:1], y[:1]), num_draws=20_000)
    with fa.handle_of(model).suspended():
        exact = exact_gradients(model, x[:1], y[:1])
    total = sum(float(g.square().sum()) for g in exact)
    for row, gradient in zip(found.layers, exact[::2], strict=True):
        expected = float(gradient.square().sum()) + gradient.numel() * total
        assert row.estimation == pytest.approx(expected, rel=0.06)
        assert math.isnan(row.sampling)
        assert row.total == row.estimation


def test_parts_of_an_unbiased_rule_add_up() -> None:
    """FG-A's estimates have backprop's gradient as their mean, so its sampling part is backprop's variance."""
    found = fa.measure.variance(attached(fa.ActivityPerturbed()), F.cross_entropy, (x, y), num_draws=5000)
    exact = fa.measure.variance(attached(fa.Backprop()), F.cross_entropy, (x, y))
    assert found["0"].sampling == pytest.approx(exact["0"].sampling, abs=0.05 * found["0"].estimation)
    assert found["0"].estimation > 5 * found["0"].sampling > 0
    assert found["2"].estimation == pytest.approx(0, abs=1e-20)
    assert found["2"].sampling == pytest.approx(exact["2"].sampling, rel=1e-9)


def test_a_mean_over_more_perturbations_has_less_variance() -> None:
    one = fa.measure.variance(attached(fa.ActivityPerturbed()), F.cross_entropy, (x, y), num_draws=2000)
    eight = fa.measure.variance(
        attached(fa.ActivityPerturbed(num_perturbations=8)), F.cross_entropy, (x, y), num_draws=2000
    )
    assert eight["0"].estimation == pytest.approx(one["0"].estimation / 8, rel=0.15)


@pytest.mark.parametrize(
    "rule", [fa.WeightPerturbed(), fa.ActivityPerturbed(), fa.FDFA(update="ema", projects="new"), fa.NoisyBackprop()]
)
def test_one_by_one_gives_the_numbers_of_all_at_once(rule: fa.Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    model = attached(rule)
    together = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=3)
    monkeypatch.setattr(estimates.Estimator, "is_vectorised", False)
    alone = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=3)
    for one, other in zip(together.layers, alone.layers, strict=True):
        assert one.sampling == pytest.approx(other.sampling, rel=1e-9, abs=1e-12)
        assert one.estimation == pytest.approx(other.estimation, rel=1e-9, abs=1e-12)
        assert one.squared_norm == pytest.approx(other.squared_norm, rel=1e-9)


@pytest.mark.parametrize("frozen", ["0.bias", "2.weight", "0.weight"])
@pytest.mark.parametrize("rule", [fa.Backprop(), fa.ActivityPerturbed(), fa.DFA()])
def test_frozen_weights_are_no_layers_and_change_nothing_elsewhere(
    rule: fa.Rule, frozen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_frozen() -> nn.Sequential:
        model = network()
        model.get_parameter(frozen).requires_grad_(False)
        return model

    model = attached(rule, with_frozen)
    together = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=3)
    assert f"{frozen[0]}.weight" == frozen or len(together.layers) == 2
    monkeypatch.setattr(estimates.Estimator, "is_vectorised", False)
    alone = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=3)
    for one, other in zip(together.layers, alone.layers, strict=True):
        assert one.layer != frozen.removesuffix(".weight")
        assert one.sampling == pytest.approx(other.sampling, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("rule", [rule() for rule in fa.ALL_RULES], ids=lambda rule: rule.name)
def test_every_rule_has_a_variance_and_a_bias(rule: fa.Rule) -> None:
    widths = (nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    model = attached(rule, lambda: nn.Sequential(*widths).double())
    assert all(row.total >= 0 for row in fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=2).layers)
    assert fa.measure.bias(model, F.cross_entropy, (x, y), num_draws=2).layers


def test_small_memory_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attached(fa.ActivityPerturbed())
    roomy = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=4)
    monkeypatch.setattr(estimates, "_MOST_NUMBERS", 1)
    tight = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=4)
    assert [row.estimation for row in tight.layers] == pytest.approx([row.estimation for row in roomy.layers], rel=1e-9)


def with_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2), nn.Linear(5, 3)).double()


class Functional(nn.Module):
    """Tangents travel as dual tensors here."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, inputs: Tensor) -> Tensor:
        return 1.0 * self.body(inputs)


@pytest.mark.parametrize("make", [network, with_norm, Functional])
@pytest.mark.parametrize("rule", [fa.FDFA(update="ema"), fa.ActivityPerturbed(), fa.WeightPerturbed()])
def test_the_model_is_left_as_it_was(rule: fa.Rule, make: Callable[[], nn.Module]) -> None:
    model = attached(rule, make)
    F.cross_entropy(model(x), y).backward()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    random_state = torch.get_rng_state()
    fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=3, group_size=2)
    fa.measure.bias(model, F.cross_entropy, (x, y), num_draws=3)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, grads[name]) for name, p in model.named_parameters() if p.grad is not None)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_seed_says_which_draws_are_measured() -> None:
    model = attached(fa.ActivityPerturbed())
    one, again, other = (
        fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=4, seed=seed)["0"].estimation
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_inputs_may_be_tuples_and_dicts() -> None:
    model = attached(fa.ActivityPerturbed())
    plain = fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=2)
    for inputs in ((x,), {"input": x}):
        assert fa.measure.variance(model, F.cross_entropy, (inputs, y), num_draws=2).to_dict() == plain.to_dict()


def test_a_variance_prints_as_a_table_and_turns_into_plain_data() -> None:
    found = fa.measure.variance(attached(fa.ActivityPerturbed()), F.cross_entropy, (x, y), num_draws=2)
    head, first, second = str(found).splitlines()
    assert head.split() == ["layer", "sampling", "estimation", "normalised"]
    assert first.split()[0] == "0"
    assert second.split()[0] == "2"
    assert found.to_dict()["layers"][0]["layer"] == "0"
    assert set(found.to_dict()["layers"][0]) >= {"total", "normalised", "sampling", "estimation"}
    with pytest.raises(KeyError, match="the layers are 0, 2"):
        found["1"]


class MakesItsOwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.body(inputs), targets)


def test_a_model_that_makes_its_own_loss_needs_no_targets() -> None:
    model = MakesItsOwnLoss()
    fa.attach(model, fa.ActivityPerturbed(), example_inputs=(x, y), output="body")
    found = fa.measure.variance(model, lambda loss, _: loss, ((x, y), None), num_draws=3)
    plain = fa.measure.variance(attached(fa.ActivityPerturbed()), F.cross_entropy, (x, y), num_draws=3)
    assert [row.estimation for row in found.layers] == pytest.approx([row.estimation for row in plain.layers], rel=1e-9)


def test_batch_normalization_wants_groups() -> None:
    model = attached(fa.ActivityPerturbed(), with_norm)
    with pytest.raises(AttachError, match=r"group_size=, or model\.eval\(\)"):
        fa.measure.variance(model, F.cross_entropy, (x, y))


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    model = attached(fa.ActivityPerturbed())
    for measure in (fa.measure.variance, fa.measure.bias, fa.measure.alignment):
        with pytest.raises(AttachError, match=r"returned a tensor of shape \(\d+,\)"):
            measure(model, lambda out, t: F.cross_entropy(out, t, reduction="none"), (x, y))
        with pytest.raises(AttachError, match="NoneType"):
            measure(model, lambda out, t: None, (x, y))
        with pytest.raises(AttachError, match=r"give the attached torch\.nn\.Module"):
            measure(F.cross_entropy, model, (x, y))


def test_wrong_arguments_are_refused() -> None:
    model = attached(fa.ActivityPerturbed())
    with pytest.raises(AttachError, match="num_draws=1"):
        fa.measure.variance(model, F.cross_entropy, (x, y), num_draws=1)
    with pytest.raises(AttachError, match="group_size=7"):
        fa.measure.variance(model, F.cross_entropy, (x, y), group_size=7)
    with pytest.raises(AttachError, match="group_size=0"):
        fa.measure.variance(model, F.cross_entropy, (x, y), group_size=0)
    with pytest.raises(AttachError, match=r"have \[5, 6\] samples"):
        fa.measure.variance(model, F.cross_entropy, (x, y[:5]))
    with pytest.raises(AttachError, match="a scalar"):
        fa.measure.variance(model, F.cross_entropy, x)  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="No rule is attached"):
        fa.measure.variance(network(), F.cross_entropy, (x, y))
    with pytest.raises(AttachError, match="without randomness"):
        fa.measure.variance(attached(fa.DFA()), F.cross_entropy, (x, y), group_size=6)
