"""Networks for click logs: forwards against torchfm, gradients of DFA against equations written out by hand."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign_lab.clicks.layers import FactorizationMachine
from feedalign_lab.clicks.names import NETWORK_NAMES
from feedalign_lab.clicks.networks import AFN, FM, DeepCross, DeepFM, NetworkSize, build_network, rules_for
from feedalign_lab.errors import SettingError, UnknownNameError

SIZES = [5, 7, 3, 4]
OFFSETS = torch.tensor([0, 5, 12, 15])
NUM_CATEGORIES, NUM_FIELDS, WIDTH = sum(SIZES), len(SIZES), 3
HIDDEN = (6, 5)
NUM_CROSS, NUM_PRODUCTS = 3, 4


def size(family: str) -> NetworkSize:
    return NetworkSize(family, WIDTH, HIDDEN, num_cross=NUM_CROSS, num_products=NUM_PRODUCTS)  # type: ignore[arg-type]


def rows(count: int = 9) -> tuple[Tensor, Tensor]:
    """Categories numbered field by field, and labels; some categories occur twice."""
    draws = torch.Generator().manual_seed(3)
    columns = [torch.randint(n, (count,), generator=draws) for n in SIZES]
    labels = torch.randint(2, (count, 1), generator=draws)
    return torch.stack(columns, dim=1), labels.double()


def network(kind: type[nn.Module], family: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = kind(NUM_CATEGORIES, NUM_FIELDS, size(family)).double()
        for parameter in model.parameters():
            # Nothing stays at zero or one: a term left out shows.
            parameter.data += 0.3 * torch.rand_like(parameter)
    return model


def copied(source: nn.Module, target: nn.Module, names: dict[str, str]) -> nn.Module:
    """Give torchfm's module the weights of ours; `names` turns the beginnings of its names into those of ours."""
    ours, theirs = dict(source.state_dict()), target.double().state_dict()
    taken = {}
    for name, value in theirs.items():
        beginning = next(b for b in sorted(names, key=len, reverse=True) if name.startswith(b))
        taken[name] = ours.pop(names[beginning] + name.removeprefix(beginning)).reshape(value.shape)
    assert not ours
    target.load_state_dict(taken)
    return target


LINEAR = {"linear.fc.": "linear.weight.", "linear.bias": "linear.bias"}
EMBEDDING = {"embedding.embedding.": "embedding."}
MLP = {"mlp.mlp.": "mlp."}


def head_at(number: int) -> dict[str, str]:
    return {f"mlp.mlp.{number}.": "head."}


def theirs_fm(model: nn.Module) -> nn.Module:
    from torchfm.model.fm import FactorizationMachineModel

    return copied(model, FactorizationMachineModel(SIZES, WIDTH), LINEAR | EMBEDDING)


def theirs_deepfm(model: nn.Module) -> nn.Module:
    from torchfm.model.dfm import DeepFactorizationMachineModel

    other = DeepFactorizationMachineModel(SIZES, WIDTH, HIDDEN, 0.0)
    return copied(model, other, LINEAR | EMBEDDING | MLP | head_at(8))


def theirs_deepcross(model: nn.Module) -> nn.Module:
    from torchfm.model.dcn import DeepCrossNetworkModel

    other = DeepCrossNetworkModel(SIZES, WIDTH, NUM_CROSS, HIDDEN, 0.0)
    cross = {f"cn.w.{i}.": f"cross.layers.{i}.weight." for i in range(NUM_CROSS)}
    cross |= {f"cn.b.{i}": f"cross.layers.{i}.bias" for i in range(NUM_CROSS)}
    return copied(model, other, EMBEDDING | MLP | cross | {"linear.": "head."})


def theirs_afn(model: nn.Module) -> nn.Module:
    from torchfm.model.afn import AdaptiveFactorizationNetwork

    other = AdaptiveFactorizationNetwork(SIZES, WIDTH, NUM_PRODUCTS, HIDDEN, (0.0, 0.0))
    return copied(model, other, LINEAR | EMBEDDING | MLP | head_at(8) | {"LNN.": "logarithmic."})


@pytest.mark.parametrize(
    ("kind", "family", "theirs"),
    [
        (FM, "fm", theirs_fm),
        (DeepFM, "deepfm", theirs_deepfm),
        (DeepCross, "deepcross", theirs_deepcross),
        (AFN, "afn", theirs_afn),
    ],
)
@pytest.mark.parametrize("is_training", [True, False])
def test_forward_is_that_of_torchfm(
    kind: type[nn.Module], family: str, theirs: Callable[[nn.Module], nn.Module], is_training: bool
) -> None:
    model = network(kind, family)
    other = theirs(model)
    x, _ = rows()
    model.train(is_training)
    other.train(is_training)
    expected = other(x)
    torch.testing.assert_close(model(x + OFFSETS).squeeze(1).sigmoid(), expected, rtol=1e-12, atol=1e-12)


def test_factorization_machine_is_the_sum_over_pairs() -> None:
    embedded = torch.rand(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = sum(embedded[:, i] * embedded[:, j] for i in range(4) for j in range(i + 1, 4))
    assert isinstance(pairs, Tensor)
    torch.testing.assert_close(FactorizationMachine()(embedded), pairs.sum(1, keepdim=True))


# The equations by hand, without autograd: what DFA gives each parameter.


def scattered(x: Tensor, values: Tensor) -> Tensor:
    """Sum what arrives at each category: values [N, F, D] to [categories, D]."""
    total = torch.zeros(NUM_CATEGORIES, values.shape[2], dtype=values.dtype)
    for n in range(x.shape[0]):
        for f in range(x.shape[1]):
            total[x[n, f]] += values[n, f]
    return total


def first_order(x: Tensor, error: Tensor) -> dict[str, Tensor]:
    return {
        "linear.weight.weight": scattered(x, error[:, None, :].expand(-1, NUM_FIELDS, 1)),
        "linear.bias": error.sum(0),
    }


def perceptron(
    model: nn.Module, h: Tensor, error: Tensor, feedback: dict[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Blocks of linear, batch normalization and ReLU, the signal entering behind the ReLU; returns the output too."""
    p = dict(model.named_parameters())
    grads: dict[str, Tensor] = {}
    for block in range(len(HIDDEN)):
        linear, norm, relu = (f"mlp.{4 * block + i}" for i in range(3))
        a = h @ p[f"{linear}.weight"].T + p[f"{linear}.bias"]
        std = (a.var(0, unbiased=False) + 1e-5).sqrt()
        unit = (a - a.mean(0)) / std
        z = unit * p[f"{norm}.weight"] + p[f"{norm}.bias"]
        d = error @ feedback[relu] * (z > 0)
        grads[f"{norm}.weight"], grads[f"{norm}.bias"] = (d * unit).sum(0), d.sum(0)
        d = d * p[f"{norm}.weight"]
        d = (d - d.mean(0) - unit * (d * unit).mean(0)) / std
        grads[f"{linear}.weight"], grads[f"{linear}.bias"] = d.T @ h, d.sum(0)
        h = z.clamp(min=0)
    return grads, h


def head(h: Tensor, error: Tensor) -> dict[str, Tensor]:
    return {"head.weight": error.T @ h, "head.bias": error.sum(0)}


def deepfm_by_hand(model: nn.Module, x: Tensor, error: Tensor, feedback: dict[str, Tensor]) -> dict[str, Tensor]:
    embedded = model.get_parameter("embedding.weight").detach()[x]
    grads, h = perceptron(model, embedded.flatten(1), error, feedback)
    others = embedded.sum(1, keepdim=True) - embedded
    embedding = scattered(x, error[:, :, None] * others)
    return grads | first_order(x, error) | head(h, error) | {"embedding.weight": embedding}


def deepcross_by_hand(model: nn.Module, x: Tensor, error: Tensor, feedback: dict[str, Tensor]) -> dict[str, Tensor]:
    embedded = model.get_parameter("embedding.weight").detach()[x]
    first = embedded.flatten(1)
    grads, h = perceptron(model, first, error, feedback)
    grads["embedding.weight"] = scattered(x, (error @ feedback["embedded"]).view_as(embedded))
    crossed = first
    signals = [error @ feedback[f"cross.layers.{i}.point"] for i in range(NUM_CROSS - 1)]
    signals.append((error @ feedback["stack"])[:, : first.shape[1]])
    for i, signal in enumerate(signals):
        weight = model.get_parameter(f"cross.layers.{i}.weight.weight").detach()
        grads[f"cross.layers.{i}.bias"] = signal.sum(0)
        grads[f"cross.layers.{i}.weight.weight"] = (signal * first).sum(1, keepdim=True).T @ crossed
        crossed = first * (crossed @ weight.T) + model.get_parameter(f"cross.layers.{i}.bias").detach() + crossed
    return grads | head(torch.cat([crossed, h], dim=1), error)


def afn_by_hand(model: nn.Module, x: Tensor, error: Tensor, feedback: dict[str, Tensor]) -> dict[str, Tensor]:
    embedded = model.get_parameter("embedding.weight").detach()[x]
    logarithms = (1 + embedded.abs() + 1e-7).log()
    exponents = torch.einsum("kf,nfd->nkd", model.get_parameter("logarithmic.weight").detach(), logarithms)
    products = exponents.exp() - 1
    grads, h = perceptron(model, products.clamp(min=0).flatten(1), error, feedback)
    d = (error @ feedback["rectified"]).view_as(products) * (products > 0) * exponents.exp()
    grads["logarithmic.weight"] = torch.einsum("nkd,nfd->kf", d, logarithms)
    grads["embedding.weight"] = scattered(x, (error @ feedback["embedded"]).view_as(embedded))
    return grads | first_order(x, error) | head(h, error)


MLP_POINTS = {"mlp.2": HIDDEN[0], "mlp.6": HIDDEN[1]}
FLAT = NUM_FIELDS * WIDTH
CASES = [
    (DeepFM, "deepfm", MLP_POINTS, deepfm_by_hand),
    (
        DeepCross,
        "deepcross",
        MLP_POINTS
        | {"embedded": FLAT, "stack": FLAT + HIDDEN[1]}
        | {f"cross.layers.{i}.point": FLAT for i in range(NUM_CROSS - 1)},
        deepcross_by_hand,
    ),
    (AFN, "afn", MLP_POINTS | {"embedded": FLAT, "rectified": NUM_PRODUCTS * WIDTH}, afn_by_hand),
]


@pytest.mark.parametrize(("kind", "family", "widths", "by_hand"), CASES)
def test_gradients_of_dfa_are_those_by_hand(
    kind: type[nn.Module], family: str, widths: dict[str, int], by_hand: Callable[..., dict[str, Tensor]]
) -> None:
    model = network(kind, family)
    x, y = rows()
    x = x + OFFSETS
    draws = torch.Generator().manual_seed(5)
    feedback = {point: torch.randn(1, n, generator=draws, dtype=torch.float64) for point, n in widths.items()}
    rules = rules_for(model, fa.DFA())
    assert fa.check(model, x, rules).ok
    handle = fa.attach(model, rules, example_inputs=x, feedback=feedback, strict=True)
    logits = model(x)
    nn.functional.binary_cross_entropy_with_logits(logits, y).backward()
    assert all(row.fired for row in handle.describe().rows if row.fired is not None)
    error = (logits.detach().sigmoid() - y) / len(y)
    expected = by_hand(model, x, error, feedback)
    found = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("family", ["deepfm", "deepcross", "afn"])
def test_what_teaches_each_layer(family: str) -> None:
    model = build_network(f"{family}-small", NUM_CATEGORIES, NUM_FIELDS, seed=0)
    x = rows()[0] + OFFSETS
    handle = fa.attach(model, rules_for(model, fa.DFA()), example_inputs=x, strict=True)
    taught = {row.layer: row for row in handle.describe().rows if row.point != "output" or row.layer == "embedding"}
    if family == "deepfm":
        assert [r.signal for r in handle.describe().rows if r.layer == "embedding"] == ["shallow: none", "error"]
    else:
        assert taught["embedding"].signal == "dfa: e B"
        assert taught["embedding"].feedback.startswith("[1, ")
    assert all(row.through == () for row in handle.describe().rows)
    assert not handle.describe().notes


@pytest.mark.parametrize(
    ("family", "moves"),
    [
        ("deepfm", {"linear.weight.weight", "linear.bias", "embedding.weight", "head.weight", "head.bias"}),
        ("deepcross", {"head.weight", "head.bias"}),
        ("afn", {"linear.weight.weight", "linear.bias", "head.weight", "head.bias"}),
    ],
)
def test_shallow_teaches_what_the_error_reaches_without_a_hidden_weight(family: str, moves: set[str]) -> None:
    model = build_network(f"{family}-small", NUM_CATEGORIES, NUM_FIELDS, seed=0)
    x, y = rows()
    fa.attach(model, rules_for(model, fa.Shallow()), example_inputs=x, strict=True)
    nn.functional.binary_cross_entropy_with_logits(model(x), y.float()).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == moves


def test_backprop_reaches_the_embeddings_of_deepfm_through_the_perceptron() -> None:
    x, y = rows()
    gradients = []
    for rule in (fa.Backprop(), fa.DFA()):
        model = network(DeepFM, "deepfm")
        fa.attach(model, rules_for(model, rule), example_inputs=x)
        nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
        gradients.append(model.get_parameter("embedding.weight").grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_networks_start_from_their_seed_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first, second, other = (build_network(name, 20, 4, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(("num_categories", "num_fields"), [(0, 4), (20, 0), (-1, 1)])
def test_networks_on_nothing(num_categories: int, num_fields: int) -> None:
    with pytest.raises(SettingError, match="at least one field and one category"):
        build_network("deepfm-small", num_categories, num_fields, seed=0)


def test_embeddings_of_the_adaptive_network_start_positive() -> None:
    assert (build_network("afn-small", 50, 4, seed=0).get_parameter("embedding.weight") >= 0).all()


def test_sizes_of_the_public_code() -> None:
    model = build_network("deepfm", 100, 39, seed=0)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in layers] == [390, 400, 400, 400]
    assert all(before.out_features == after.in_features for before, after in pairwise(layers))


def test_unknown_network() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean deepfm"):
        build_network("deep-fm", 10, 2, seed=0)
