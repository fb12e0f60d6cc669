"""What attaching to a recurrent model leaves alone, and what else a model goes through: copies, casts, compilers."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from attach.model_state import assert_same_state, left_as_it_was, state_of
from feedalign import errors
from feedalign.rules import LearnedRule
from integration.gradients import Gradients, assert_same_gradients, gradients, own_gradients
from recurrent.by_steps import gradients_by_steps
from recurrent.readers import CLASSES, HIDDEN, KINDS, Case, Reader, cross_entropy, feedback_for

TOLERANCE = 1e-12
PACKED = (3, 5, 1, 4)
AVERAGED = fa.FDFA(update="ema")
POINT_RULES = [
    fa.DFA(),
    fa.SignDFA(),
    fa.DRTP(),
    fa.DKP(),
    fa.FDFA(),
    AVERAGED,
    fa.ActivityPerturbed(),
    fa.LocalGreedy(),
    fa.Shallow(),
]
every_rule = pytest.mark.parametrize("rule", POINT_RULES, ids=repr)
every_kind = pytest.mark.parametrize("kind", KINDS)

# The last step is read: the last states of all layers come in one tensor, which hides from LocalGreedy which is last.
DEEP = Case("GRU", {"num_layers": 3, "bidirectional": True}, "embedding", "last")


def attached(case: Case, rule: fa.Rule | None = None, **options: Any) -> Reader:
    model = case.model()
    fa.attach(model, rule or fa.DFA(), example_inputs=case.inputs(), **options)
    return model


def step(case: Case, model: Callable[..., Tensor]) -> None:
    cross_entropy(model(*case.inputs()), case.targets()).backward()


def gradients_of_step(case: Case, model: nn.Module) -> Gradients:
    model.zero_grad()
    step(case, model)
    return gradients(model)


def not_from_zero(rule: fa.Rule) -> dict[str, Any]:
    """Feedback that starts at zero would teach nothing in the first step."""
    return {"feedback": fa.KaimingUniform()} if isinstance(rule, LearnedRule) else {}


@every_rule
def test_what_was_attached_and_removed_is_the_plain_model_again(rule: fa.Rule) -> None:
    model = DEEP.model()
    step(DEEP, model)
    buffers = {"steps": torch.zeros(3)}
    model.register_buffer("steps", buffers["steps"])
    with left_as_it_was(model):
        handle = fa.attach(model, rule, example_inputs=DEEP.inputs())
        assert isinstance(model.rnn.layer1, fa.FeedbackPoint)
        handle.remove()
        handle.remove()
    assert "forward" not in vars(model.rnn)
    assert not list(model.rnn.children())
    assert_same_gradients(gradients_of_step(DEEP, model), gradients_of_step(DEEP, DEEP.model()), tolerance=0)


@every_kind
def test_the_state_dict_holds_the_same_keys_with_feedback_beside(kind: str) -> None:
    case = DEEP.of(kind=kind)
    plain, model = case.model(), attached(case)
    assert [key for key in model.state_dict() if "feedalign" not in key] == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    model.load_state_dict(plain.state_dict(), strict=False)


FAILING: dict[str, dict[str, Any]] = {
    "no such point": {"points": "nothing"},
    "no such output": {"output": "nothing"},
    "feedback of a wrong shape": {"feedback": {f"rnn.layer{number}": torch.ones(1, 1) for number in range(3)}},
    "feedback for nobody": {"feedback": {"nobody": torch.ones(1, 1)}},
    "a glob that matches nothing": {"rule": {"nothing": fa.SignDFA(), "*": fa.DFA()}},
    "half of the module": {"points": "rnn.layer1"},
    "a predicate that fails": {"points": lambda name, module: 1 / 0},
    "inputs that do not fit": {"example_inputs": torch.zeros(2, 3, 4, 5)},
    "strict": {"rule": {"rnn": fa.Backprop(), "*": fa.DFA()}, "strict": True},
}


@pytest.mark.parametrize("how", FAILING)
@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
def test_an_attach_that_fails_leaves_no_trace(kind: str, how: str) -> None:
    case = DEEP.of(kind=kind, below="linear")
    model = case.model()
    step(case, model)
    arguments = {"rule": fa.DFA(), "example_inputs": case.inputs(), **FAILING[how]}
    with left_as_it_was(model), pytest.raises((errors.FeedalignError, ZeroDivisionError)):
        fa.attach(model, arguments.pop("rule"), **arguments)
    assert "forward" not in vars(model.rnn)
    assert not list(model.rnn.children())


def test_a_forward_that_fails_leaves_the_next_one_as_it_is() -> None:
    case = Case("GRU", {"num_layers": 2}, readout="last")
    model = attached(case)
    expected = gradients_of_step(case, model)
    fa.handle_of(model).lengths(torch.tensor(PACKED))
    with pytest.raises(RuntimeError):
        model(torch.zeros(4, 5, 9, dtype=torch.float64))
    assert_same_gradients(gradients_of_step(case, model), expected, tolerance=0)


@pytest.mark.parametrize(
    ("kind", "rule"), [*((kind, fa.DFA()) for kind in KINDS), *(("GRU", rule) for rule in POINT_RULES)], ids=str
)
def test_suspended_evaluated_and_without_gradients_it_is_the_plain_model(kind: str, rule: fa.Rule) -> None:
    case = Case(kind, {"num_layers": 3, "dropout": 0.3}, readout="last")
    model, plain, inputs = attached(case, rule), case.model(), case.inputs()
    handle = fa.handle_of(model)

    def both(run: Callable[[nn.Module], Tensor]) -> tuple[Tensor, Tensor]:
        made = []
        for one in (model, plain):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made.append(run(one))
        return made[0], made[1]

    with torch.no_grad():
        assert torch.equal(*both(lambda one: one(*inputs)))
    with torch.inference_mode():
        assert torch.equal(*both(lambda one: one(*inputs)))
    with handle.suspended():
        assert torch.equal(*both(lambda one: one(*inputs)))
        both(lambda one: cross_entropy(one(*inputs), case.targets()).backward())
        assert_same_gradients(own_gradients(model), gradients(plain), tolerance=0)
    model.eval(), plain.eval()
    with torch.no_grad():
        assert torch.equal(*both(lambda one: one(*inputs)))
    torch.testing.assert_close(*both(lambda one: one(*inputs)), rtol=TOLERANCE, atol=TOLERANCE)


@every_rule
def test_a_step_moves_nothing_but_gradients(rule: fa.Rule) -> None:
    case = Case("LSTM", {"num_layers": 3}, "linear", "last")
    model = attached(case, rule)
    before = state_of(model)
    step(case, model)
    model.zero_grad()
    after = state_of(model)
    moves = {"feedalign.counter"} | ({f"feedalign.rnn_layer{n}" for n in range(3)} if rule == AVERAGED else set())
    for state in (before, after):
        for name in moves & set(state.values):
            del state.values[name]
    assert_same_state(after, before)


@pytest.mark.parametrize(
    ("kind", "rule"), [("tanh", fa.DFA()), ("GRU before", fa.DFA()), *(("LSTM", rule) for rule in POINT_RULES)], ids=str
)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_learns_as_the_original_does(
    duplicate: Callable[[nn.Module], nn.Module], kind: str, rule: fa.Rule
) -> None:
    case = Case(kind, {"num_layers": 3}, readout="steps", lengths=PACKED)
    model = attached(case, rule, **not_from_zero(rule))
    step(case, model)
    twin = duplicate(model)
    with torch.no_grad():
        for parameter in twin.rnn.parameters():
            parameter *= 1.5
    from_twin = gradients_of_step(case, twin)
    with torch.no_grad():
        for parameter in model.rnn.parameters():
            parameter *= 1.5
    assert_same_gradients(from_twin, gradients_of_step(case, model), tolerance=0)
    fa.handle_of(twin).remove()
    assert "forward" not in vars(twin.rnn)
    assert "forward" in vars(model.rnn)
    assert list(twin.state_dict()) == list(case.model().state_dict())


def test_a_model_saved_whole_is_loaded_with_its_rule() -> None:
    case = DEEP
    model, file = attached(case), BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert_same_gradients(gradients_of_step(case, twin), gradients_of_step(case, model), tolerance=0)


@pytest.mark.parametrize("rule", [fa.DFA(), fa.DKP(), fa.FDFA(update="ema")], ids=repr)
def test_a_state_dict_brings_the_feedback_along(rule: fa.Rule) -> None:
    case, file = Case("LSTM", {"num_layers": 2}), BytesIO()
    model = attached(case, rule, feedback=fa.KaimingUniform(), generator=torch.Generator().manual_seed(5))
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = Case("LSTM", {"num_layers": 2}).model(seed=1)
    fa.attach(other, rule, example_inputs=case.inputs(), feedback=fa.KaimingUniform())
    assert not torch.equal(fa.handle_of(other).feedback_at("rnn.layer1"), fa.handle_of(model).feedback_at("rnn.layer1"))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert_same_gradients(gradients_of_step(case, other), gradients_of_step(case, model), tolerance=0)


@every_kind
def test_a_model_may_change_its_precision(kind: str) -> None:
    case = Case(kind, {"num_layers": 2, "bidirectional": True})
    model = attached(case, feedback=feedback_for(case.model().rnn))
    expected = gradients_of_step(case, model)
    x = case.inputs()[0]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.float64, 5e-2)):
        model.to(dtype).zero_grad()
        cross_entropy(model(x.to(dtype)), case.targets()).backward()
        found = {name: grad.double() for name, grad in gradients(model).items()}
        assert_same_gradients(found, expected, tolerance)
        assert {grad.dtype for grad in gradients(model).values()} == {dtype}


@pytest.mark.parametrize("form", [
    Case(options={"num_layers": 2}, readout="last"),
    Case(options={"num_layers": 2, "bidirectional": True}, below="linear", has_states=True),
    Case(options={"batch_first": False}, lengths=PACKED),
    Case(readout="steps", below="embedding"),
])  # fmt: skip
@every_kind
def test_autocast_learns_alike_in_half_precision(kind: str, form: Case) -> None:
    case = form.of(kind=kind)
    model = case.model().float()
    x, lengths, *states = case.inputs()
    inputs = (x.float() if x.is_floating_point() else x, lengths, *(state.float() for state in states))
    handle = fa.attach(model, fa.DFA(), example_inputs=inputs)
    cross_entropy(model(*inputs), case.targets()).backward()
    expected = gradients(model)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*inputs)
        with handle.suspended():
            exact = model(*inputs)
        loss = cross_entropy(output, case.targets())
    assert output.dtype == exact.dtype == torch.bfloat16
    torch.testing.assert_close(output, exact, rtol=0.02, atol=0.02)
    loss.backward()
    for name, grad in gradients(model).items():
        assert grad.dtype == torch.float32
        assert (grad - expected[name]).norm() < 0.05 * expected[name].norm(), name


@pytest.mark.parametrize("kind", ["tanh", "GRU", "LSTM"])
def test_streaming_under_autocast_learns_alike(kind: str) -> None:
    case = Case(kind, {"num_layers": 2}, "linear")
    model, x = case.model().float(), case.inputs()[0].float()
    handle = fa.attach(model, fa.DRTP(), example_inputs=x)
    found = []
    for targets in (None, case.targets()):
        model.zero_grad()
        handle.targets(targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(x), case.targets())
        loss.backward()
        found.append(gradients(model))
    for name, grad in found[0].items():
        assert (grad - found[1][name]).norm() < 0.05 * grad.norm(), name


@every_kind
def test_parameters_put_in_by_a_functional_call_run_and_learn(kind: str) -> None:
    case = Case(kind, {"num_layers": 2, "bidirectional": True}, "linear", has_states=True)
    model, other = attached(case), case.model(seed=1)
    fa.attach(other, fa.DFA(), example_inputs=case.inputs())
    theirs = {name: p.detach().clone().requires_grad_() for name, p in other.named_parameters()}
    cross_entropy(functional_call(model, theirs, case.inputs()), case.targets()).backward()
    assert_same_gradients({n: p.grad for n, p in theirs.items()}, gradients_of_step(case, other), TOLERANCE)
    assert all(parameter.grad is None for parameter in model.parameters())


@every_kind
def test_func_grad_gives_the_same(kind: str) -> None:
    case = Case(kind, {"num_layers": 2}, "linear")
    model = attached(case)
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return cross_entropy(functional_call(model, (parameters, buffers), case.inputs()), case.targets())

    found = torch.func.grad(loss)({name: p.detach() for name, p in model.named_parameters()})
    assert_same_gradients(found, gradients_of_step(case, model), TOLERANCE)


def test_parametrized_weights_learn_through_their_parametrization() -> None:
    case = Case("GRU", {"num_layers": 2})
    model = case.model()
    for layer in range(2):
        nn.utils.parametrizations.weight_norm(model.rnn, f"weight_hh_l{layer}")
    fa.attach(model, fa.DFA(), example_inputs=case.inputs(), feedback=feedback_for(model.rnn))
    found = gradients_of_step(case, model)
    expected = gradients_by_steps(case, feedback_for(model.rnn), case.inputs(), case.targets())
    for layer in range(2):
        name = f"parametrizations.weight_hh_l{layer}"
        weight = getattr(model.rnn, f"weight_hh_l{layer}")
        originals = [model.rnn.get_parameter(f"{name}.original{number}") for number in range(2)]
        through = torch.autograd.grad(weight, originals, expected[f"rnn.weight_hh_l{layer}"])
        for number, grad in enumerate(through):
            got = found[f"rnn.{name}.original{number}"]
            torch.testing.assert_close(got, grad, rtol=TOLERANCE, atol=TOLERANCE)
    for name in ("rnn.weight_ih_l1", "rnn.bias_hh_l0"):
        torch.testing.assert_close(found[name], expected[name], rtol=TOLERANCE, atol=TOLERANCE)


class Checkpointed(Reader):
    """The recurrent module is run again in the backward."""

    def forward(self, x: Tensor, lengths: Tensor | None = None, *states: Tensor) -> Tensor:
        output, last = checkpoint(lambda rows: self.rnn(rows), self.lowest(x), use_reentrant=False)
        return self.head(self.read(output, last))


@every_rule
@pytest.mark.parametrize(
    "form",
    [
        Case(options={"num_layers": 3}, below="linear", readout="last"),
        Case("LSTM", {"num_layers": 3}, readout="steps"),
    ],
)
def test_a_checkpointed_module_learns_alike(form: Case, rule: fa.Rule) -> None:
    options = not_from_zero(rule)
    expected = gradients_of_step(form, attached(form, rule, **options))
    model = Checkpointed(0, case=form).double()
    fa.attach(model, rule, example_inputs=form.inputs(), **options)
    assert_same_gradients(gradients_of_step(form, model), expected, TOLERANCE)


@pytest.mark.parametrize("whole", [False, True])
def test_a_checkpointed_module_finds_its_lengths_again(whole: bool) -> None:
    case = Case("LSTM", {"num_layers": 2, "bidirectional": True}, "embedding", readout="last")
    lengths = torch.tensor(PACKED)
    expected = gradients_of_step_with(lengths, case, attached(case), lambda model, x: model(x))
    model = Reader(0, case=case).double() if whole else Checkpointed(0, case=case).double()
    fa.attach(model, fa.DFA(), example_inputs=case.inputs())
    again = (lambda model, x: checkpoint(model, x, use_reentrant=False)) if whole else (lambda model, x: model(x))
    assert_same_gradients(gradients_of_step_with(lengths, case, model, again), expected, TOLERANCE)
    without = gradients_of_step(case, model)["rnn.weight_hh_l0"]
    assert not torch.allclose(without, expected["rnn.weight_hh_l0"])


def gradients_of_step_with(
    lengths: Tensor, case: Case, model: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]
) -> Gradients:
    """Lengths hold for one forward, and for what of it runs again in the backward."""
    model.zero_grad()
    fa.handle_of(model).lengths(lengths)
    cross_entropy(run(model, case.inputs()[0]), case.targets()).backward()
    return gradients(model)


class Reentrant(Reader):
    """The recurrent module is hidden from autograd, at once or later."""

    reentrant = True

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        run = (lambda rows: checkpoint(self.rnn, rows, use_reentrant=True)) if self.reentrant else self.rnn
        return self.head(run(self.lowest(x))[0][:, -1])


def test_reentrant_checkpointing_is_refused() -> None:
    case = Case(below="embedding", readout="last")
    model = Reentrant(0, case=case).double()
    with left_as_it_was(model), pytest.raises(errors.CheckpointingError, match="use_reentrant=False"):
        fa.attach(model, fa.DFA(), example_inputs=case.inputs())
    model.reentrant = False
    fa.attach(model, fa.DFA(), example_inputs=case.inputs())
    model.reentrant = True
    with pytest.raises(errors.CheckpointingError, match="use_reentrant=False"):
        model(*case.inputs())


# Dynamo's own, which it hides from users.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("form", [
    Case("LSTM", {"bidirectional": True, "batch_first": False}, "linear", has_states=True, readout="steps"),
    pytest.param(Case(options={"num_layers": 2}, lengths=PACKED), marks=pytest.mark.slow),
    pytest.param(Case("GRU before, own reset"), marks=pytest.mark.slow),
    pytest.param(Case("GRU separate", readout="last"), marks=pytest.mark.slow),
])  # fmt: skip
def test_compiled_with_breaks_in_the_graph_it_learns_alike(form: Case) -> None:
    model = attached(form, fa.DKP(gamma=0.5), feedback=fa.KaimingUniform())
    expected = gradients_of_step(form, model)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        model.zero_grad()
        step(form, compiled)
        assert_same_gradients(gradients(model), expected, TOLERANCE)
    fa.handle_of(model).remove()
    model.zero_grad()
    step(form, compiled)
    assert_same_gradients(gradients(model), gradients_of_step(form, form.model()), TOLERANCE)


def test_tangents_through_a_recurrent_module_refuse_the_compiler() -> None:
    case = Case("GRU")
    model = torch.compile(attached(case, fa.FDFA()), backend="aot_eager")
    with pytest.raises(errors.CompiledModelError, match=r"without torch\.compile"):
        model(*case.inputs())


def test_a_part_called_outside_the_forward_is_refused() -> None:
    case = Case("GRU", {"num_layers": 3}, readout="last")
    for rule in POINT_RULES:
        model = attached(case, rule)
        if not isinstance(rule, fa.Shallow):
            with pytest.raises(errors.OutsideForwardError, match=r"'rnn.layer0'.*Call the model itself"):
                model.rnn(case.inputs()[0])
        with torch.no_grad():
            torch.testing.assert_close(model.rnn(case.inputs()[0])[0], case.model().rnn(case.inputs()[0])[0])


def test_an_attached_model_inside_another_is_found_by_its_whole_name() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Case("GRU", {"num_layers": 2}).model()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    case, model = Case("GRU", {"num_layers": 2}), Outer()
    handle = fa.attach(model, fa.DFA(), example_inputs=case.inputs()[0])
    assert handle.feedback_at("inner.rnn.layer1").shape == (CLASSES, HIDDEN)
    cross_entropy(model(case.inputs()[0]), case.targets()).backward()
    found = {name.removeprefix("inner."): grad for name, grad in gradients(model).items()}
    assert_same_gradients(found, gradients_of_step(case, attached(case)), TOLERANCE)


def test_hooks_on_the_module_stay_and_see_what_it_returns() -> None:
    case, seen = Case("LSTM"), []
    model = case.model()
    model.rnn.register_forward_hook(lambda module, args, output: seen.append(output))
    fa.attach(model, fa.DFA(), example_inputs=case.inputs())
    seen.clear()
    model(*case.inputs())
    (output, (h, c)), (expected, (plain_h, plain_c)) = seen[0], case.model().rnn(case.inputs()[0])
    for found, wanted in ((output, expected), (h, plain_h), (c, plain_c)):
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)
        assert not found.requires_grad


@pytest.mark.parametrize("form", [
    Case("LSTM", {"num_layers": 2, "bidirectional": True}, lengths=PACKED, has_states=True),
    Case("GRU", {"num_layers": 2, "bidirectional": True}, lengths=(5, 4, 4, 1), is_sorted=True),
    Case("GRU before", {"num_layers": 2, "bidirectional": True, "batch_first": False}, lengths=PACKED),
])  # fmt: skip
def test_packed_sequences_are_returned_as_the_module_itself_does(form: Case) -> None:
    model, seen = form.model(), []
    model.rnn.register_forward_hook(lambda module, args, output: seen.append(output))
    fa.attach(model, fa.DFA(), example_inputs=form.inputs())
    with torch.no_grad():
        model(*form.inputs())
    model(*form.inputs())
    (plain, plain_ends), (output, ends) = seen[-2:]
    assert torch.equal(plain.batch_sizes, output.batch_sizes)
    for mine, theirs in zip(output[2:], plain[2:], strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    ends, plain_ends = (e if isinstance(e, tuple) else (e,) for e in (ends, plain_ends))
    for found, wanted in ((output.data, plain.data), *zip(ends, plain_ends, strict=True)):
        torch.testing.assert_close(found, wanted, rtol=TOLERANCE, atol=TOLERANCE)


class Activated(Reader):
    """An in-place activation right behind the recurrent module."""

    where = "sequence"

    def read(self, output: Any, last: Any) -> Tensor:
        if self.where == "sequence":
            return output.mul_(2)[:, -1]
        if self.where == "step":
            return nn.functional.relu_(output[:, -1])
        return last[-1].tanh_()


VIEWS = pytest.mark.xfail(raises=errors.ExampleInputsError, strict=True, reason="states come out of the node as a view")


@pytest.mark.parametrize("where", [
    pytest.param("sequence", marks=VIEWS),
    pytest.param("step", marks=VIEWS),
    "state",
])  # fmt: skip
def test_what_the_module_returns_may_be_changed_in_place(where: str) -> None:
    case = Case("GRU", {"num_layers": 2}, readout="last")
    model, plain = (Activated(0, case=case).double() for _ in range(2))
    model.where = plain.where = where
    feedback = feedback_for(model.rnn)
    fa.attach(model, fa.DFA(), example_inputs=case.inputs(), feedback=feedback)
    found = gradients_of_step(case, model)
    (of_head,) = torch.autograd.grad(cross_entropy(plain(*case.inputs()), case.targets()), plain.head.weight)
    torch.testing.assert_close(found["head.weight"], of_head, rtol=TOLERANCE, atol=TOLERANCE)
    untouched = attached(case, feedback=feedback)
    output = untouched(*case.inputs())
    (error,) = torch.autograd.grad(cross_entropy(logits := plain(*case.inputs()), case.targets()), logits)
    output.backward(error)
    for name, grad in gradients(untouched).items():
        if name.startswith("rnn"):
            torch.testing.assert_close(found[name], grad, rtol=TOLERANCE, atol=TOLERANCE)


class HandedOn(nn.Module):
    """An encoder that hands its last state on, beside a module that the forward leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 5, batch_first=True)
        self.decoder = nn.GRU(2, 5, batch_first=True)
        self.spare = nn.GRU(3, 5, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.head(self.decoder(target, self.encoder(source)[1])[0][:, -1])


def test_a_state_handed_on_is_known_when_the_model_is_read_again() -> None:
    model = HandedOn()
    handle = fa.attach(model, fa.DFA(), example_inputs=(torch.randn(4, 6, 3), torch.randn(4, 7, 2)))
    points = [row.point for row in handle.describe().rows if row.layer in {"encoder", "decoder"}]
    assert points == ["encoder.layer0", "decoder.layer0"]
    assert not list(model.spare.children())
