"""Draws: their distributions within stated standard errors, their order, and what a user may give in their place."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import feedalign as fa
from agreement import assert_agree, gradients_after_step
from feedalign.errors import AttachError, FeedbackShapeError
from feedalign.feedback import PRESETS, counter_uniform
from problems import Problem, SmallConvNet, draw
from reference import counter_draw

SHAPE = (40, 2500)
NUM_ENTRIES = math.prod(SHAPE)
FAN = 2500

# A draw, the variance of its entries times the fan, and their fourth moment over the squared variance.
MOMENTS = {
    "kaiming uniform": (fa.KaimingUniform(), 2.0, 9 / 5),
    "scaled uniform": (fa.ScaledUniform(), 1 / 3, 9 / 5),
    "normal": (fa.Normal(), 1.0, 3.0),
    "normal of another size": (fa.Normal(std=0.2), 0.04 * FAN, 3.0),
    "ternary": (fa.Ternary(), 1.0, 3 / 2),
    "sparse ternary": (fa.Ternary(density=0.2), 1.0, 5.0),
    "sparse": (fa.Sparse(density=0.25), 2.0, 9 / 5 / 0.25),
    "sparse normal": (fa.Sparse(density=0.5, values=fa.Normal()), 1.0, 6.0),
    "shared": (fa.SharedSlice(), 1 / 3, 9 / 5),
}
every_draw = pytest.mark.parametrize("drawing", [*(d for d, _, _ in MOMENTS.values()), fa.Orthogonal()], ids=repr)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(drawing: fa.Draw, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    return drawing([shape], generator(seed))[0]


@pytest.mark.parametrize(("drawing", "variance", "kurtosis"), list(MOMENTS.values()), ids=list(MOMENTS))
def test_mean_and_variance_are_those_declared(drawing: fa.Draw, variance: float, kurtosis: float) -> None:
    """Within four standard errors: of a mean sqrt(var / n), of a variance sqrt((kurtosis - 1) / n) of itself."""
    entries = drawn(drawing).double().flatten()
    expected = variance / FAN
    assert abs(float(entries.mean())) < 4 * math.sqrt(expected / NUM_ENTRIES)
    assert abs(float(entries.square().mean()) / expected - 1) < 4 * math.sqrt((kurtosis - 1) / NUM_ENTRIES)


def test_zeros_are_zeros_of_any_shape_and_draw_nothing() -> None:
    source = generator()
    before = source.get_state()
    matrices = fa.Zeros()([(3, 4), (5, 6)], source)
    assert [tuple(matrix.shape) for matrix in matrices] == [(3, 4), (5, 6)]
    assert not any(matrix.any() for matrix in matrices)
    assert torch.equal(source.get_state(), before)


@pytest.mark.parametrize("rule", [fa.DKP(), fa.FDFA(), fa.FDFA(update="ema")], ids=repr)
def test_learned_feedback_starts_at_zero_or_where_the_user_says(rule: fa.Rule) -> None:
    def started(**options: object) -> dict[str, Tensor]:
        problem = Problem()
        store = fa.attach(problem.model(), rule, example_inputs=problem.inputs(), **options).store
        return {name: store.feedback(name).detach() for name in ("act1", "act2")}

    assert not any(matrix.any() for matrix in started().values())
    fixed = Problem().model()
    drawn = fa.attach(fixed, fa.DFA(), example_inputs=Problem().inputs(), feedback=fa.Orthogonal()).store
    for name, matrix in started(feedback=fa.Orthogonal()).items():
        assert torch.equal(matrix, drawn.feedback(name))
    given = Problem().direct_feedback()
    found = started(feedback=given)
    assert all(torch.equal(found[name], matrix) for name, matrix in given.items())


@pytest.mark.parametrize(
    ("drawing", "bound"),
    [(fa.KaimingUniform(), math.sqrt(6 / FAN)), (fa.ScaledUniform(), 1 / 50), (fa.SharedSlice(), 1 / 50)],
)
def test_uniform_draws_fill_the_range_up_to_their_bound(drawing: fa.Draw, bound: float) -> None:
    """The largest of n uniform entries falls short of the bound by 1/n of it on average, by 20/n with chance e^-20."""
    largest = float(drawn(drawing).abs().max())
    assert bound * (1 - 20 / NUM_ENTRIES) < largest <= bound * (1 + 1e-6)


def test_the_fan_of_a_convolution_is_all_sizes_but_the_first() -> None:
    weight = drawn(fa.KaimingUniform(), (50, 4, 5, 5))
    assert 0.99 * math.sqrt(6 / 100) < float(weight.abs().max()) <= math.sqrt(6 / 100)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (3, 2, 5), (1, 7)])
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_orthogonal_rows_or_columns_are_orthonormal_times_the_gain(shape: tuple[int, ...], gain: float) -> None:
    flat = drawn(fa.Orthogonal(gain), shape).flatten(1).double()
    gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=3e-6)


@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("make", [fa.Sparse, fa.Ternary])
def test_density_is_the_fraction_of_entries_kept(make: type, density: float) -> None:
    """Within four standard errors sqrt(p (1 - p) / n)."""
    fraction = float((drawn(make(density=density)) != 0).double().mean())
    assert abs(fraction - density) <= 4 * math.sqrt(density * (1 - density) / NUM_ENTRIES)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, math.nan])
@pytest.mark.parametrize("make", [fa.Sparse, fa.Ternary])
def test_a_density_outside_its_range_is_refused(make: type, density: float) -> None:
    with pytest.raises(AttachError, match="density"):
        make(density=density)


def test_ternary_entries_have_three_values() -> None:
    values = drawn(fa.Ternary(density=0.5)).unique()
    size = 1 / math.sqrt(0.5 * FAN)
    torch.testing.assert_close(values, torch.tensor([-size, 0.0, size]))


SIZES = [(3, 8), (3, 20), (3, 8), (3, 5)]


def test_a_shared_matrix_is_sliced_for_every_layer() -> None:
    first, largest, second, small = fa.SharedSlice("largest")(SIZES, generator())
    assert largest.abs().max() <= 1 / math.sqrt(20)
    for matrix, (_, width) in zip((first, second, small), ((3, 8), (3, 8), (3, 5)), strict=True):
        assert torch.equal(matrix, largest[:, :width])


def test_a_shared_matrix_is_scaled_by_each_layers_own_size_where_the_paper_says_so() -> None:
    by_largest = fa.SharedSlice("largest")(SIZES, generator())
    by_layer = fa.SharedSlice("layer")(SIZES, generator())
    for one, other, (_, width) in zip(by_layer, by_largest, SIZES, strict=True):
        torch.testing.assert_close(one, other * math.sqrt(20 / width))
    assert torch.equal(by_layer[1], by_largest[1])


def test_a_shared_matrix_needs_one_number_of_outputs() -> None:
    with pytest.raises(AttachError, match="one number of outputs"):
        fa.SharedSlice()([(3, 8), (4, 8)], generator())
    problem = Problem()
    with pytest.raises(AttachError, match="direct rules"):
        fa.attach(problem.model(), fa.FA(), example_inputs=problem.inputs(), feedback=fa.SharedSlice())


def test_layers_of_one_size_share_their_feedback_in_an_attached_model() -> None:
    problem = Problem(widths=(5, 7, 7, 4))
    handle = fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs(), feedback=fa.SharedSlice())
    first, second = handle.feedback_at("act1"), handle.feedback_at("act2")
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)


def test_presets_are_the_choices_of_their_papers() -> None:
    assert PRESETS["nokland2016"] == fa.ScaledUniform()
    assert PRESETS["launay2020"] == fa.SharedSlice("largest")
    assert PRESETS["frenkel2021"] == PRESETS["bacho2024"] == fa.KaimingUniform()


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_draws_what_its_draw_draws(name: str) -> None:
    problem = Problem()
    stores = [
        fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs(), feedback=feedback).store.state_dict()
        for feedback in (name, PRESETS[name])
    ]
    assert_agree(*stores, tolerance=0.0)


@every_draw
def test_a_generator_decides_every_entry(drawing: fa.Draw) -> None:
    shapes = [(4, 10), (4, 6)]
    first, again = drawing(shapes, generator(3)), drawing(shapes, generator(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(drawing(shapes, generator(4))[0], first[0])
    assert [tuple(matrix.shape) for matrix in first] == shapes
    assert all(matrix.dtype == torch.float32 for matrix in first)


@every_draw
def test_a_draw_leaves_the_global_random_state_alone(drawing: fa.Draw) -> None:
    before = torch.get_rng_state()
    drawing([(4, 10)], generator())
    assert torch.equal(torch.get_rng_state(), before)


@every_draw
def test_no_layers_need_no_draw(drawing: fa.Draw) -> None:
    assert drawing([], generator()) == []


@pytest.mark.parametrize("rule", [fa.DFA, fa.FA, fa.BRSF])
def test_the_generator_given_to_attach_decides_the_feedback(rule: type[fa.Rule]) -> None:
    problem = Problem()

    def step(seed: int | None) -> dict[str, Tensor | None]:
        model = problem.model()
        chosen = None if seed is None else generator(seed)
        fa.attach(model, rule(), example_inputs=problem.inputs(), generator=chosen)
        return gradients_after_step(model, problem)

    assert_agree(step(5), step(5), tolerance=0.0)
    assert_agree(step(None), step(None), tolerance=0.0)
    assert not torch.allclose(step(5)["fc1.weight"], step(6)["fc1.weight"])


def test_feedback_takes_the_dtype_of_the_model() -> None:
    problem = Problem(dtype=torch.float32)
    handle = fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs())
    assert handle.store.feedback("act1").dtype == torch.float32
    handle.model.double()
    assert handle.store.feedback("act1").dtype == torch.float64


# What a user gives in the place of a draw.


def test_feedback_given_by_name_is_used_as_it_is() -> None:
    problem = Problem()
    matrices = problem.direct_feedback()
    handle = fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs(), feedback=matrices)
    for name, matrix in matrices.items():
        held = handle.store.feedback(name)
        assert torch.equal(held, matrix)
        assert held.data_ptr() != matrix.data_ptr()


def test_feedback_given_for_a_convolution_may_be_unflattened() -> None:
    x, _ = SmallConvNet.batch()
    supplied = {"act1": draw(5, 3, 8, 8, seed=1), "act2": draw(5, 4, 2, 2, seed=2)}
    handle = fa.attach(SmallConvNet(), fa.DFA(), example_inputs=x, feedback=supplied)
    assert torch.equal(handle.store.feedback("act1"), supplied["act1"].flatten(1))


@pytest.mark.parametrize(
    ("rule", "name", "shape"),
    [
        (fa.DFA, "act1", (7, 4)),
        (fa.DFA, "act1", (4, 6)),
        (fa.DFA, "act1", (28,)),
        (fa.FA, "fc2", (7, 6)),
        (fa.FRSF, "fc2", (6, 8)),
    ],
)
def test_feedback_of_the_wrong_shape_is_refused(rule: type[fa.Rule], name: str, shape: tuple[int, ...]) -> None:
    problem = Problem()
    good = problem.direct_feedback() if rule is fa.DFA else problem.layerwise_feedback()
    with pytest.raises(FeedbackShapeError, match=name):
        fa.attach(problem.model(), rule(), example_inputs=problem.inputs(), feedback=good | {name: torch.ones(shape)})


def test_feedback_that_is_no_tensor_is_refused() -> None:
    problem = Problem()
    supplied = problem.direct_feedback() | {"act2": [[1.0]]}
    with pytest.raises(FeedbackShapeError, match="act2"):
        fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs(), feedback=supplied)


def test_feedback_for_an_unknown_or_without_a_known_name_is_refused() -> None:
    problem = Problem()
    good = problem.direct_feedback()
    for names in (good | {"act3": good["act1"]}, {"act1": good["act1"]}):
        with pytest.raises(AttachError, match="act"):
            fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs(), feedback=names)


@pytest.mark.parametrize(
    "supplied", [fa.Normal, "nokland", 3, lambda error: error], ids=["class", "name", "int", "call"]
)
def test_feedback_of_another_kind_is_refused(supplied: object) -> None:
    problem = Problem()
    with pytest.raises(AttachError):
        fa.attach(problem.model(), fa.DFA(), example_inputs=problem.inputs(), feedback=supplied)


@pytest.mark.parametrize("rule", [fa.Backprop, fa.Shallow, fa.USF, fa.BRSF])
@pytest.mark.parametrize("supplied", [fa.Normal(), "nokland2016"], ids=["draw", "preset"])
def test_feedback_for_a_rule_that_draws_none_is_refused(rule: type[fa.Rule], supplied: object) -> None:
    problem = Problem()
    with pytest.raises(AttachError, match=rule.__name__):
        fa.attach(problem.model(), rule(), example_inputs=problem.inputs(), feedback=supplied)


@pytest.mark.parametrize("rule", [fa.DFA, fa.SignDFA, fa.DRTP])
def test_a_projection_stands_for_the_product_with_the_matrix(rule: type[fa.Rule]) -> None:
    problem = Problem()
    matrices = problem.direct_feedback()
    found = []
    for feedback in (matrices, fa.Projection(lambda vector, point: vector @ matrices[point])):
        model = problem.model()
        fa.attach(model, rule(), example_inputs=problem.inputs(), feedback=feedback)
        found.append(gradients_after_step(model, problem))
    assert_agree(*found, tolerance=0.0)


def test_a_projection_stands_for_the_product_while_the_forward_streams() -> None:
    problem = Problem()
    matrices = problem.direct_feedback()
    found = []
    for feedback in (matrices, fa.Projection(lambda vector, point: vector @ matrices[point])):
        model = problem.model()
        handle = fa.attach(model, fa.DRTP(), example_inputs=problem.inputs(), feedback=feedback)
        handle.targets(problem.targets())
        found.append(gradients_after_step(model, problem, keep=True))
    assert_agree(*found)


def test_a_projection_sees_rows_of_tokens_and_may_return_float32() -> None:
    problem = Problem()
    matrices, x = problem.direct_feedback(), draw(3, 4, 5, seed=1)
    seen: list[tuple[int, ...]] = []

    def project(vector: Tensor, point: str) -> Tensor:
        seen.append(tuple(vector.shape))
        return (vector @ matrices[point]).float()

    model = problem.model()
    fa.attach(model, fa.DFA(), example_inputs=x, feedback=fa.Projection(project))
    model(x).square().sum().backward()
    assert seen == [(12, 4)] * 2
    assert model.fc1.weight.grad.dtype == torch.float64


def test_a_projection_of_the_wrong_shape_is_refused() -> None:
    problem = Problem()
    model = problem.model()
    fa.attach(model, fa.DFA(), example_inputs=problem.inputs(), feedback=fa.Projection(lambda vector, point: vector))
    with pytest.raises(FeedbackShapeError, match=r"returned shape \(5, 4\)"):
        gradients_after_step(model, problem)


def test_a_projection_is_refused_by_layer_wise_rules() -> None:
    problem = Problem()
    with pytest.raises(AttachError, match="direct rules"):
        fa.attach(problem.model(), fa.FA(), example_inputs=problem.inputs(), feedback=fa.Projection(lambda v, point: v))


# The draw that is a pure function of a seed and a counter.


def counted(shape: tuple[int, ...], seed: int, counter: int) -> Tensor:
    return counter_uniform(shape, torch.tensor(seed), torch.tensor(counter))


@given(
    shape=st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple),
    seed=st.integers(0, 2**62 - 1),
    counter=st.integers(0, 2**40),
)
def test_a_counted_draw_is_the_hash_of_its_seed_counter_and_index(
    shape: tuple[int, ...], seed: int, counter: int
) -> None:
    assert torch.equal(counted(shape, seed, counter).double(), counter_draw.draw(shape, seed, counter))


@pytest.mark.parametrize(("seed", "counter"), [(0, 0), (0, 1), (1, 0), (2**61 + 3, 7), (5, 2**33)])
def test_a_counted_draw_is_uniform(seed: int, counter: int) -> None:
    """Kolmogorov-Smirnov: sqrt(n) times the largest gap to the law exceeds 2.2 with chance 2 exp(-2 * 2.2^2)."""
    entries = counted((1, NUM_ENTRIES), seed, counter).double().flatten() * math.sqrt(NUM_ENTRIES)
    ordered = (entries.sort().values + 1) / 2
    steps = torch.arange(NUM_ENTRIES + 1, dtype=torch.float64) / NUM_ENTRIES
    gap = torch.maximum((ordered - steps[:-1]).abs(), (ordered - steps[1:]).abs()).max()
    assert math.sqrt(NUM_ENTRIES) * float(gap) < 2.2
    assert entries.abs().max() <= 1 + 1e-6


def test_every_entry_of_a_counted_draw_is_uniform_over_counters() -> None:
    """Variances of n uniform numbers are 1/3 within five standard errors sqrt(4/45 / n); the largest of 12 entries."""
    num_draws = 4000
    draws = torch.stack([counted((3, 4), 1, counter) for counter in range(num_draws)]).double() * math.sqrt(4)
    assert float((draws.var(0) - 1 / 3).abs().max()) < 5 * math.sqrt(4 / 45 / num_draws)
    assert float(draws.mean(0).abs().max()) < 5 * math.sqrt(1 / 3 / num_draws)


def test_entries_streams_and_seeds_of_counted_draws_are_uncorrelated() -> None:
    """Correlations of n pairs have standard error 1/sqrt(n); four of them."""
    shape, limit = (100, 1000), 4 / math.sqrt(100_000)
    base = counted(shape, 3, 5).flatten()
    others = [counted(shape, 3, 6), counted(shape, 4, 5), counted(shape, 5, 3), counted(shape, 3, 5 + 2**32)]
    others += [base.roll(lag) for lag in (1, 2, 1000)]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([base, other.flatten()]))[0, 1])) < limit


def test_every_counter_gives_other_numbers() -> None:
    draws = torch.stack([counted((2, 3), 1, counter).flatten() for counter in range(2000)])
    assert len(draws.unique(dim=0)) == 2000


def test_a_counted_draw_is_the_same_under_vmap_over_counters() -> None:
    counters = torch.arange(6)
    batched = torch.func.vmap(lambda counter: counter_uniform((4, 3), torch.tensor(9), counter))(counters)
    assert torch.equal(batched, torch.stack([counted((4, 3), 9, counter) for counter in range(6)]))


def test_a_counted_draw_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    counted((4, 3), 1, 2)
    assert torch.equal(torch.get_rng_state(), before)


@dataclass(frozen=True, repr=False)
class Noting(fa.BRSF):
    """Notes what is drawn for it."""

    drawn: list[Tensor] = field(default_factory=list, compare=False)

    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        assert drawn is not None
        self.drawn.append(drawn)
        return super().feedback_weight(weight, drawn)


def test_layers_of_one_shape_have_magnitudes_of_their_own() -> None:
    problem, rule = Problem(widths=(6, 6, 6, 6, 6)), Noting()
    model = problem.model()
    fa.attach(model, rule, example_inputs=problem.inputs())
    gradients_after_step(model, problem)
    assert len(rule.drawn) == 3
    assert len(torch.stack(rule.drawn).unique(dim=0)) == 3


def test_attach_itself_leaves_the_global_random_state_alone() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(), nn.Linear(7, 4))
    before = torch.get_rng_state()
    fa.attach(model, fa.DFA(), example_inputs=torch.zeros(3, 5))
    assert torch.equal(torch.get_rng_state(), before)
