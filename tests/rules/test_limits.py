"""Limits of hardware at the direct rules: equations, exact limits, refusals, and what is under way."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from agreement import assert_agree, case_for, gradients_after_step
from feedalign.errors import AttachError, DelayError, UntrainedFeedbackError
from feedalign.perturbation import perturbation
from feedalign.rules import DirectRule
from feedalign.testing import check_rule
from problems import Problem, draw
from reference import dfa, dkp, drtp, limits, perceptron, sign_dfa

PROBLEM = Problem()
# Numbers of the places at which limits draw.
ERROR, FIRST_POINT = 1024, 1025
FIXED = (fa.DFA, fa.SignDFA, fa.DRTP)
DIRECT = (*FIXED, fa.DKP, fa.FDFA)


@contextmanager
def watched() -> Iterator[dict[int, Tensor]]:
    """Gather the normal numbers that limits draw, by the number of the place."""
    drawn: dict[int, Tensor] = {}

    def draw_and_keep(like: Tensor, num: int, clock: Tensor, stream: int, distribution: str) -> Tensor:
        made = perturbation(like, num, clock, stream, distribution)
        drawn[stream] = made[0]
        return made

    with mock.patch("feedalign.receivers.perturbation", draw_and_keep):
        yield drawn


def attached(rule: fa.Rule, problem: Problem = PROBLEM) -> tuple[nn.Sequential, fa.Handle]:
    model = problem.model()
    handle = fa.attach(model, rule, example_inputs=problem.inputs(), feedback=problem.direct_feedback())
    return model, handle


def by_hand_converted(converter: fa.Quantized | fa.Ternarized | None, matrix: Tensor, drawn: Tensor | None) -> Tensor:
    if converter is None:
        return matrix
    if isinstance(converter, fa.Ternarized):
        return limits.ternarised(matrix, converter.threshold, converter.full_scale)
    uniform = None if drawn is None else torch.special.ndtr(drawn)
    return limits.quantised(matrix, converter.bits, converter.full_scale, uniform)


CONVERTERS = [
    fa.Quantized(1), fa.Quantized(2), fa.Quantized(4), fa.Quantized(3, full_scale="row"),
    fa.Quantized(3, full_scale=0.05), fa.Ternarized(), fa.Ternarized(0.0), fa.Ternarized(0.4, full_scale="row"),
    fa.Ternarized(0.5, full_scale=0.1),
]  # fmt: skip
STOCHASTIC = [
    fa.Quantized(bits, rounding="stochastic", full_scale=scale) for bits in (1, 3) for scale in ("tensor", 0.1)
]
CASES = [
    *(fa.DFA(limits=fa.Limits(error=converter)) for converter in (*CONVERTERS, *STOCHASTIC)),
    fa.DFA(limits=fa.Limits(feedback=fa.Quantized(3))),
    fa.DFA(limits=fa.Limits(noise=0.5)),
    fa.DFA(limits=fa.Limits(error=STOCHASTIC[2], feedback=fa.Ternarized(0.3, full_scale="row"), noise=0.2)),
    fa.SignDFA(limits=fa.Limits(feedback=fa.Ternarized(), noise=0.5)),
    fa.DRTP(limits=fa.Limits(feedback=fa.Quantized(3), noise=0.5)),
    fa.DKP(limits=fa.Limits(error=fa.Ternarized(), feedback=fa.Quantized(3), noise=0.5)),
]


@pytest.mark.parametrize("rule", CASES, ids=repr)
def test_gradients_equal_the_equations_by_hand(rule: DirectRule) -> None:
    model, _ = attached(rule)
    exact = case_for(rule, PROBLEM, model, list(PROBLEM.direct_feedback().values()))
    with watched() as drawn:
        found = gradients_after_step(model, PROBLEM)
    held = [by_hand_converted(rule.limits.feedback, matrix, None) for matrix in exact.feedback]
    rounded = drawn.get(ERROR)
    sent = exact._replace(error=by_hand_converted(rule.limits.error, exact.error, rounded))
    equations = {fa.DFA: dfa, fa.SignDFA: sign_dfa, fa.DRTP: drtp, fa.DKP: dkp}[type(rule)]
    signals = equations.signals(sent._replace(feedback=held))
    if rule.limits.noise:
        normal = [drawn[FIRST_POINT + number] for number in range(len(signals))]
        signals = [limits.received(s, rule.limits.noise, z) for s, z in zip(signals, normal, strict=True)]
    expected = perceptron.gradients(exact, signals)
    learned = dkp.learned(sent) if isinstance(rule, fa.DKP) else {}
    expected |= {f"fc3.feedalign.{name}": gradient for name, gradient in learned.items()}
    assert_agree(found, expected)
    assert set(drawn) == {*([ERROR] if rule.limits.error and rule.limits.error.draws else []),
                          *([FIRST_POINT, FIRST_POINT + 1] if rule.limits.noise else [])}  # fmt: skip


@pytest.mark.parametrize("streams", [False, True])
def test_streaming_has_the_same_limits(streams: bool) -> None:
    model, handle = attached(fa.DRTP(limits=fa.Limits(feedback=fa.Quantized(3), noise=0.5)))
    if streams:
        handle.targets(PROBLEM.targets())
    found = gradients_after_step(model, PROBLEM, keep=True)
    other = attached(fa.DRTP(limits=fa.Limits(feedback=fa.Quantized(3), noise=0.5)))[0]
    assert_agree(found, gradients_after_step(other, PROBLEM))


def test_a_shared_matrix_is_converted_as_a_whole_and_once() -> None:
    feedback = fa.SharedSlice(normalisation="largest")
    found = []
    for converter in (None, fa.Quantized(3)):
        model = PROBLEM.model()
        rule = fa.DFA(limits=fa.Limits(feedback=converter, noise=0.5))
        handle = fa.attach(model, rule, example_inputs=PROBLEM.inputs(), feedback=feedback)
        if converter is None:
            for held in handle.store.buffers():
                if held.dim() == 2:
                    held.copy_(limits.quantised(held, 3))
        found.append(gradients_after_step(model, PROBLEM))
    assert_agree(*found)


class Reader(nn.Module):
    """A recurrent layer with an output at every step."""

    def __init__(self, directions: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.rnn = nn.RNN(3, 5, batch_first=True, bidirectional=directions == 2, dtype=torch.float64)
            self.out = nn.Linear(5 * directions, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0])


def read(
    rule: fa.Rule, *, streams: bool = False, directions: int = 2, padding: float | None = None
) -> dict[str, Tensor]:
    model, x, labels = Reader(directions), draw(2, 4, 3, seed=5), torch.arange(8).reshape(2, 4) % 4
    handle = fa.attach(model, rule, example_inputs=x)
    if streams:
        handle.targets(labels)
    if padding is not None:
        x[:, 3:] = padding
        handle.lengths(torch.tensor([3, 3]))
    F.cross_entropy(model(x).flatten(0, 1), labels.flatten()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_steps_of_a_recurrent_layer_have_the_same_limits_and_padding_no_noise() -> None:
    rule = fa.DRTP(limits=fa.Limits(feedback=fa.Quantized(3), noise=0.5))
    assert_agree(read(rule, streams=True), read(rule))
    plain, many = read(fa.DFA()), read(fa.DFA(limits=fa.Limits(fa.Quantized(32), fa.Quantized(32), noise=1e-9)))
    assert_agree(many, plain, 1e-7)
    noisy = fa.DFA(limits=fa.Limits(noise=0.5))
    one, other = (read(noisy, directions=1, padding=padding)["rnn.weight_ih_l0"] for padding in (1.0, -2.0))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(one, read(fa.DFA(), directions=1, padding=1.0)["rnn.weight_ih_l0"])


# Exact limits.


@pytest.mark.parametrize("rule", DIRECT)
def test_no_limits_are_the_plain_rule_in_every_bit(rule: type[DirectRule]) -> None:
    plain = gradients_after_step(attached(rule())[0], PROBLEM)
    none = fa.Limits(error=None, feedback=None, noise=0.0, delay=0)
    same = gradients_after_step(attached(rule(limits=none))[0], PROBLEM)
    assert all(torch.equal(same[name], gradient) for name, gradient in plain.items())


@pytest.mark.parametrize("rule", [fa.DFA, fa.DKP, fa.FDFA])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_many_bits_are_no_limit(rule: type[DirectRule], rounding: str) -> None:
    plain = gradients_after_step(attached(rule())[0], PROBLEM)
    distances = []
    for bits in (8, 16, 32):
        limited = fa.Limits(error=fa.Quantized(bits, rounding), feedback=fa.Quantized(bits))
        found = gradients_after_step(attached(rule(limits=limited))[0], PROBLEM)
        distances.append(
            max(float((found[n] - g).abs().max()) for n, g in plain.items() if n.startswith(("fc1", "fc2")))
        )
    # A step is r / (2^(bits-1) - 1): eight bits more make it 256 times smaller.
    assert 1e-7 < distances[1] < distances[0] / 32
    assert distances[2] < 1e-8


def test_a_converter_rounds_by_half_a_step_at_most_and_at_random_right_on_average() -> None:
    x = draw(20, 7, seed=1)
    step = float(x.abs().max()) / 7
    assert float((fa.Quantized(4)(x) - x).abs().max()) <= step / 2 + 1e-12
    uniform = torch.rand(4000, 20, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for bits, width in ((4, step), (1, 2 * 7 * step)):
        rounded = torch.stack([fa.Quantized(bits, "stochastic")(x, numbers) for numbers in uniform])
        # The deviation of a choice between two levels is half their distance at most.
        assert float((rounded.mean(0) - x).abs().max()) < 5 * width / 2 / len(uniform) ** 0.5


def test_one_bit_is_the_sign_and_two_bits_are_ternary_at_half_scale() -> None:
    x = draw(6, 5, seed=3)
    x[0, 0] = 0.0
    assert torch.equal(fa.Quantized(1)(x), x.sign() * x.abs().max())
    assert torch.equal(fa.Quantized(2)(x), fa.Ternarized(0.5)(x))


@pytest.mark.parametrize("converter", [*CONVERTERS, *STOCHASTIC], ids=repr)
def test_nothing_sent_and_no_rows_stay_as_they_are(converter: fa.Quantized | fa.Ternarized) -> None:
    uniform = torch.full((3, 4), 0.3)
    assert torch.equal(converter(torch.zeros(3, 4), uniform), torch.zeros(3, 4)) or converter.draws
    assert converter(torch.zeros(0, 4), uniform[:0]).shape == (0, 4)
    assert converter(torch.ones(3, 4, dtype=torch.bfloat16), uniform).dtype == torch.bfloat16


# A factor on the loss, and the samples of a batch.


@pytest.mark.parametrize("full_scale", ["tensor", "row", 0.02])
def test_a_full_scale_that_is_measured_follows_the_loss_and_a_fixed_one_does_not(full_scale: str | float) -> None:
    rule = fa.DFA(limits=fa.Limits(error=fa.Quantized(3, full_scale=full_scale), noise=0.1))
    once, scaled = (gradients_after_step(attached(rule)[0], PROBLEM, factor=factor) for factor in (1.0, 1024.0))
    follows = all(torch.allclose(scaled[n], 1024 * once[n], rtol=1e-9, atol=1e-12) for n in ("fc1.weight", "fc2.bias"))
    assert follows == isinstance(full_scale, str)
    assert_agree({"fc3.weight": scaled["fc3.weight"]}, {"fc3.weight": 1024 * once["fc3.weight"]}, 1e-9)


def test_noise_is_drawn_anew_in_each_forward_and_never_from_the_global_generator() -> None:
    model, _ = attached(fa.DFA(limits=fa.Limits(noise=0.5)))
    before = torch.get_rng_state()
    with watched() as first:
        gradients_after_step(model, PROBLEM)
    with watched() as second:
        gradients_after_step(model, PROBLEM)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[FIRST_POINT], second[FIRST_POINT])
    assert not torch.equal(first[FIRST_POINT].flatten()[:10], first[FIRST_POINT + 1].flatten()[:10])


# Conformance.


ALL_LIMITS = {
    "error": fa.Limits(error=fa.Quantized(3, full_scale="row")),
    "stochastic": fa.Limits(error=fa.Quantized(3, "stochastic")),
    "feedback": fa.Limits(feedback=fa.Ternarized()),
    "noise": fa.Limits(noise=0.3),
    "delay": fa.Limits(delay=1),
}
CONFORMING = [
    (rule, name)
    for rule in DIRECT
    for name in ALL_LIMITS
    if name.replace("stochastic", "error") not in rule.refused_limits
]


@pytest.mark.parametrize(("rule", "name"), CONFORMING, ids=lambda value: getattr(value, "__name__", value))
def test_every_direct_rule_conforms_under_every_limit_it_takes(rule: type[DirectRule], name: str) -> None:
    check_rule(rule(limits=ALL_LIMITS[name]))


def test_all_limits_at_once_conform() -> None:
    both = fa.Limits(fa.Quantized(3, "stochastic"), fa.Ternarized(), noise=0.2, delay=2)
    check_rule(fa.DFA(limits=both))
    assert pickle.loads(pickle.dumps(both)) == both
    assert repr(fa.Limits(noise=0.5)) == "Limits(noise=0.5)"
    assert repr(fa.DKP(limits=fa.Limits(noise=0.5))) == "DKP(positions='auto', gamma=1.0, limits=Limits(noise=0.5))"
    assert "limits=Limits(noise=0.5), distribution='normal'" in repr(fa.FDFA(limits=fa.Limits(noise=0.5)))
    assert repr(fa.DKP(limits=fa.Limits())) == "DKP(positions='auto', gamma=1.0)"


# Delay.


def steps_of(model: nn.Module, handle: fa.Handle, sizes: list[int], lr: float = 0.0) -> list[dict[str, Tensor]]:
    """Gradients step by step, with batches of these sizes, under plain gradient descent."""
    optimizer = torch.optim.SGD(handle.parameter_groups(), lr=lr)
    found = []
    for number, size in enumerate(sizes):
        problem = PROBLEM.with_samples(size)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(problem.inputs() + number), problem.targets())
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
    return found


@pytest.mark.parametrize("rule", [fa.DFA, fa.SignDFA, fa.DKP, fa.FDFA])
@pytest.mark.parametrize("delay", [1, 3])
def test_each_layer_gets_what_the_step_so_many_before_made(rule: type[DirectRule], delay: int) -> None:
    """The weights stand still here; batches differ, and the last one is smaller."""
    sizes = [5, 5, 5, 5, 5, 2]
    made = steps_of(*attached(rule()), sizes)
    found = steps_of(*attached(rule(limits=fa.Limits(delay=delay))), sizes)
    for name in made[0]:
        own = [step[name] for step in made]
        expected = own if name.startswith("fc3.") and "feedalign" not in name else limits.late(own, delay)
        assert all(torch.equal(step[name], wanted) for step, wanted in zip(found, expected, strict=True)), name


def test_an_update_is_that_of_the_weights_at_which_its_error_was_made() -> None:
    """By hand: kept activations of step t - d, its own error, weights that have moved since."""
    rule, delay, lr, num_steps = fa.DFA(limits=fa.Limits(delay=2)), 2, 0.5, 6
    model, handle = attached(rule)
    shadow = PROBLEM.model()
    made: list[dict[str, Tensor]] = []
    for number in range(num_steps):
        case = case_for(rule, PROBLEM, shadow, list(PROBLEM.direct_feedback().values()))
        own = perceptron.gradients(case, dfa.signals(case))
        made.append(own)
        hidden = {name: limits.late([step[name] for step in made], delay)[-1] for name in own}
        with torch.no_grad():
            for name, parameter in shadow.named_parameters():
                parameter -= lr * (own if name.startswith("fc3") else hidden)[name]
        found = gradients_after_step(model, PROBLEM)
        assert_agree(found, {name: (own if name.startswith("fc3") else hidden)[name] for name in own})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
        del number
    assert_agree(dict(model.named_parameters()), dict(shadow.named_parameters()))
    assert any("late: the first 2 give zeros" in note for note in handle.describe().notes)


def test_a_run_resumed_from_a_state_dict_goes_on_in_every_bit() -> None:
    rule = fa.DFA(limits=fa.Limits(error=fa.Quantized(3, "stochastic"), noise=0.3, delay=2))
    model, handle = attached(rule)
    steps_of(model, handle, [5, 5, 5], lr=0.5)
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    loaded, other = attached(rule)
    loaded.load_state_dict(model.state_dict())
    expected = steps_of(model, handle, [5, 5, 2], lr=0.5)
    for again, its in ((copied, fa.handle_of(copied)), (pickled, fa.handle_of(pickled)), (loaded, other)):
        for found, wanted in zip(steps_of(again, its, [5, 5, 2], lr=0.5), expected, strict=True):
            assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


@pytest.mark.parametrize("rule", [fa.DKP, fa.FDFA])
def test_feedback_that_cannot_have_moved_yet_is_no_fault_of_the_optimizer(rule: type[DirectRule]) -> None:
    steps_of(*attached(rule(limits=fa.Limits(delay=20))), [2] * 25, lr=0.1)
    model, _ = attached(rule(limits=fa.Limits(delay=2)))
    optimizer = torch.optim.SGD(PROBLEM.model().parameters(), lr=0.1)
    optimizer.param_groups[0]["params"] = [p for name, p in model.named_parameters() if "feedalign" not in name]

    def train() -> None:
        for _ in range(14):
            gradients_after_step(model, PROBLEM)
            optimizer.step()

    with pytest.raises(UntrainedFeedbackError):
        train()


def test_a_delay_counts_backward_passes_and_not_the_forwards_under_them() -> None:
    sums = []
    for rule in (fa.DFA(limits=fa.Limits(delay=1)), fa.DFA()):
        model, _ = attached(rule)
        for _ in range(2):
            model.zero_grad()
            torch.stack([PROBLEM.loss_of(model(PROBLEM.inputs() + shift)) for shift in (0, 1)]).sum().backward()
        sums.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert_agree(*sums)


def test_measuring_sees_no_delay_and_disturbs_nothing_under_way() -> None:
    found = []
    for measures in (False, True):
        model, handle = attached(fa.DFA(limits=fa.Limits(delay=1)))
        loss = PROBLEM.loss_of(model(PROBLEM.inputs()))
        if measures:
            batch = (PROBLEM.inputs(), PROBLEM.targets())
            late = fa.measure.alignment(model, F.cross_entropy, batch)
            plain = fa.measure.alignment(attached(fa.DFA())[0], F.cross_entropy, batch)
            assert late == plain or str(late) == str(plain)
            with handle.suspended():
                gradients_after_step(model, PROBLEM)
            model.zero_grad()
        loss.backward()
        found.append([gradients_after_step(model, PROBLEM), handle.store.state_dict()])
    assert_agree(found[0][0], found[1][0])
    assert all(torch.equal(found[0][1][key], value) for key, value in found[1][1].items())


def test_removing_leaves_no_hook() -> None:
    model, handle = attached(fa.DFA(limits=fa.Limits(delay=1)))
    gradients_after_step(model, PROBLEM)
    handle.remove()
    assert_agree(gradients_after_step(model, PROBLEM), gradients_after_step(PROBLEM.model(), PROBLEM))


# Where the model runs.


# Dynamo looks at `.grad` of tensors that are no leaves, and hides the warning only from those who do not raise it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "given",
    [fa.Limits(error=fa.Quantized(3)), fa.Limits(fa.Quantized(3, "stochastic"), fa.Ternarized(), noise=0.3)],
    ids=repr,
)
def test_compiled_and_vectorised_models_have_the_gradients_of_each_alone(given: fa.Limits) -> None:
    rule = fa.DFA(limits=given)
    expected = gradients_after_step(attached(rule)[0], PROBLEM)
    model, _ = attached(rule)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    PROBLEM.loss_of(compiled(PROBLEM.inputs())).backward()
    assert_agree({name: p.grad for name, p in model.named_parameters()}, expected)

    models = [attached(rule)[0] for _ in range(2)]
    with torch.no_grad():
        models[1].fc1.weight.add_(0.1)
    parameters, buffers = torch.func.stack_module_state(models)
    own = [gradients_after_step(copy.deepcopy(one), PROBLEM) for one in models]

    inputs, labels = PROBLEM.inputs(), PROBLEM.targets()

    def loss_of(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(models[0], {**p, **b}, (inputs,)), labels)

    found = torch.func.vmap(torch.func.grad(loss_of))(parameters, buffers)
    for number, wanted in enumerate(own):
        assert_agree({name: gradient[number] for name, gradient in found.items()}, wanted)


def test_a_delay_is_refused_where_it_could_not_wait() -> None:
    rule = fa.DFA(limits=fa.Limits(delay=1))
    model, _ = attached(rule)
    with pytest.raises(DelayError, match=r"torch\.func"):
        torch.func.grad(
            lambda p: PROBLEM.loss_of(torch.func.functional_call(model, p, (PROBLEM.inputs(),)))
        )(dict(model.named_parameters()))  # fmt: skip
    own = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    with pytest.raises(DelayError, match="functional_call"):
        torch.func.functional_call(model, own, (PROBLEM.inputs(),))
    with mock.patch("feedalign.late.inside_distributed", return_value=True), pytest.raises(DelayError, match="process"):
        model(PROBLEM.inputs())
    with pytest.raises(DelayError, match="compiled"):
        torch.compile(model, backend="aot_eager")(PROBLEM.inputs())


# What is refused, and what describe() shows.


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fa.Quantized(0), "1 .the sign. to 32"),
        (lambda: fa.Quantized(33), "whole number"),
        (lambda: fa.Quantized(True), "whole number"),
        (lambda: fa.Quantized(4, "up"), "nearest"),
        (lambda: fa.Quantized(full_scale=0), "full_scale"),
        (lambda: fa.Quantized(full_scale="batch"), "'row'"),
        (lambda: fa.Ternarized(1.0), "below 1"),
        (lambda: fa.Limits(error=4), "Quantized"),
        (lambda: fa.Limits(feedback=fa.Quantized(4, "stochastic")), "once"),
        (lambda: fa.Limits(noise=-1), "at least 0"),
        (lambda: fa.Limits(noise=True), "at least 0"),
        (lambda: fa.Limits(noise=float("nan")), "at least 0"),
        (lambda: fa.Limits(delay=1.5), "whole number"),
        (lambda: fa.DFA(limits=fa.Quantized(4)), "fa.Limits"),
        (lambda: fa.SignDFA(limits=fa.Limits(error=fa.Quantized(4))), "one bit"),
        (lambda: fa.DRTP(limits=fa.Limits(error=fa.Ternarized())), "no bits to lose"),
        (lambda: fa.DRTP(limits=fa.Limits(delay=1)), "waits for no error"),
        (lambda: fa.FDFA(update="ema", limits=fa.Limits(delay=1)), "average"),
    ],
)
def test_what_means_nothing_is_refused(make: object, says: str) -> None:
    with pytest.raises(AttachError, match=says):
        make()


def test_a_matrix_that_is_not_here_cannot_be_converted() -> None:
    device = fa.Projection(lambda rows, point: rows @ torch.ones(4, {"act1": 7, "act2": 6}[point], dtype=rows.dtype))
    with pytest.raises(AttachError, match="Projection"):
        fa.attach(
            PROBLEM.model(),
            fa.DFA(limits=fa.Limits(feedback=fa.Quantized())),
            example_inputs=PROBLEM.inputs(),
            feedback=device,
        )
    rule = fa.DFA(limits=fa.Limits(error=fa.Quantized(3)))
    model, other = PROBLEM.model(), PROBLEM.model()
    fa.attach(model, rule, example_inputs=PROBLEM.inputs(), feedback=device)
    ones = {"act1": torch.ones(4, 7).double(), "act2": torch.ones(4, 6).double()}
    fa.attach(other, rule, example_inputs=PROBLEM.inputs(), feedback=ones)
    assert_agree(gradients_after_step(model, PROBLEM), gradients_after_step(other, PROBLEM))


def test_a_gradient_of_two_times_cannot_wait_in_part() -> None:
    mixed = {"fc1": fa.DFA(limits=fa.Limits(delay=1)), "fc2": fa.DFA(limits=fa.Limits(delay=2))}
    shared = PROBLEM.model()
    fa.attach(shared, mixed, example_inputs=PROBLEM.inputs()).remove()

    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = PROBLEM.model()

        def forward(self, x: Tensor) -> Tensor:
            body = self.body
            first = body.fc1(x)
            return body.fc3(body.act2(body.fc2(body.act1(first)))) + first[:, :4]

    with pytest.raises(AttachError, match=r"body\.fc1\.\w+ would be taught at once, and 1 backward"):
        fa.attach(Skipping(), fa.DFA(limits=fa.Limits(delay=1)), example_inputs=PROBLEM.inputs())


def test_a_sparse_gradient_cannot_wait() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.act, self.head = nn.Parameter(torch.ones(6, 4)), nn.Tanh(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(F.embedding(x, self.table, sparse=True)))

    late, tokens = fa.DFA(limits=fa.Limits(delay=1)), torch.arange(3)
    layers = nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(AttachError, match=r"gradient of 0\.weight is sparse"):
        fa.attach(layers, late, example_inputs=tokens)
    # The modules do not tell of every sparse gradient.
    model = Embedded()
    fa.attach(model, late, example_inputs=tokens)
    loss = F.cross_entropy(model(tokens), tokens)
    with pytest.raises(DelayError, match="gradient of table is sparse"):
        loss.backward()


def test_the_description_says_what_is_limited() -> None:
    given = fa.Limits(fa.Quantized(4), fa.Ternarized(0.2), noise=0.1, delay=1)
    description = attached(fa.DFA(limits=given))[1].describe()
    words = "dfa: e B (error in 4 bits, feedback ternary above 0.2, noise 0.1, 1 backward late)"
    assert [row.signal for row in description.rows] == [words, words, "error"]
    assert "come 1 backward pass late: the first one gives zeros" in description.notes[-1]
