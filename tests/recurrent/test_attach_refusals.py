"""Recurrent models and inputs that a rule cannot work with: typed errors, words that help, models left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import feedalign as fa
from attach.models import Perceptron, Seeded, batch
from attach.refusal import assert_refused, assert_says
from feedalign import errors
from integration.gradients import gradients
from recurrent.readers import CLASSES, HIDDEN, INPUTS, Case, Reader, cross_entropy

PACKED = (3, 5, 1, 4)
case = Case()
x, y = case.inputs()[0], case.targets()


class Model(Seeded):
    """Anything with a recurrent module in it."""

    def build(self, rnn: Callable[..., nn.Module], run: Callable[..., Tensor], width: int = HIDDEN) -> None:
        self.rnn, self.head, self.run = rnn(), nn.Linear(width, CLASSES), run

    def forward(self, *inputs: Any) -> Tensor:
        return self.run(self, *inputs)


def last_step(model: Model, x: Tensor, *states: Any) -> Tensor:
    return model.head(model.rnn(x, *states)[0][:, -1])


def all_steps(model: Model, x: Tensor) -> Tensor:
    return model.head(model.rnn(x)[0])


def gru(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.GRU(INPUTS, HIDDEN, **{"batch_first": True, **options})


def of(rnn: Callable[..., nn.Module], run: Callable[..., Tensor] = last_step, width: int = HIDDEN) -> Model:
    return Model(0, rnn=rnn, run=run, width=width).double()


def attached(model: nn.Module, rule: Any = None, inputs: Any = x) -> fa.Handle:
    return fa.attach(model, rule or fa.DFA(), example_inputs=inputs)


def assert_raises(run: Callable[[], Any], error: type[Exception], *words: str) -> None:
    """Exactly this error of feedalign's, with these words."""
    with pytest.raises(errors.FeedalignError) as caught:
        run()
    assert_says(caught.value, error, *words)


@pytest.mark.parametrize(("batch_first", "full"), [(True, x), (False, x.transpose(0, 1)), (True, x[0]), (False, x[0])])
def test_sequences_without_steps_are_refused(batch_first: bool, full: Tensor) -> None:
    words = ("'rnn'", "no steps", "leave empty")
    time = 1 if batch_first and full.dim() == 3 else 0
    model = of(gru(batch_first=batch_first), lambda model, x: model.head(model.rnn(x)[1].reshape(-1, HIDDEN)))
    empty = full.narrow(time, 0, 0)
    assert_refused(model, errors.SequenceError, *words, example_inputs=empty)
    attached(model, inputs=full)
    assert_raises(lambda: model(empty), errors.SequenceError, *words)
    assert all(grad is None for grad in gradients(model).values())


def test_a_sequence_of_length_zero_in_a_pack_is_refused_by_torch() -> None:
    packed = Case(lengths=PACKED)
    model = packed.model()
    x, _ = packed.inputs()
    with_empty = torch.tensor((3, 5, 0, 4))
    assert_refused(model, errors.ExampleInputsError, "Length of all samples", example_inputs=(x, with_empty))


@pytest.mark.parametrize("shape", [(5,), (2, 4, 5, 3)])
def test_inputs_that_are_no_sequences_are_refused(shape: tuple[int, ...]) -> None:
    words = ("'rnn'", str(tuple(shape)), "[N, T, features]", "PackedSequence")
    model = of(gru(), lambda model, x: model.head(model.rnn(x)[0]))
    assert_refused(model, errors.SequenceError, *words, example_inputs=torch.zeros(shape).double())


STATES: list[tuple[str, Any, str]] = [
    ("GRU", torch.zeros(2, 4, HIDDEN), "Expected hidden size"),
    ("GRU", torch.zeros(1, 3, HIDDEN), "Expected hidden size"),
    ("GRU", torch.zeros(1, 4, HIDDEN + 1), "Expected hidden size"),
    ("GRU", torch.zeros(4, HIDDEN), "Expected hidden size"),
    ("RNN", torch.zeros(1, 3, HIDDEN), "Expected hidden size"),
    ("LSTM", (torch.zeros(1, 3, HIDDEN), torch.zeros(1, 4, HIDDEN)), "Expected hidden[0] size"),
    ("LSTM", (torch.zeros(1, 4, HIDDEN), torch.zeros(1, 4, HIDDEN - 1)), "Expected hidden[1] size"),
]


@pytest.mark.parametrize(("kind", "states", "words"), STATES)
def test_states_of_a_wrong_shape_are_refused_in_torchs_words(kind: str, states: Any, words: str) -> None:
    model = of(lambda: getattr(nn, kind)(INPUTS, HIDDEN, batch_first=True))
    assert_refused(model, errors.ExampleInputsError, words, example_inputs=(x, states))
    attached(model)
    with pytest.raises(RuntimeError) as caught:
        model(x, states)
    assert words in str(caught.value)


def test_inputs_of_a_wrong_size_are_refused_in_torchs_words() -> None:
    model = of(gru())
    attached(model)
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 3, got 2"):
        model(x[..., :2])


def test_projections_are_refused() -> None:
    model = of(lambda: nn.LSTM(INPUTS, HIDDEN, batch_first=True, proj_size=2), width=2)
    words = ("'rnn'", "proj_size=2", "nn.Linear behind it", "fa.Backprop()")
    for points in (None, "rnn", nn.LSTM):
        if points is not nn.LSTM:
            assert_refused(model, errors.UnsuitableModelError, *words, example_inputs=x, points=points)


class Own(nn.GRU):
    """A forward that no rule knows."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        output, last = super().forward(input, hx)
        return 2 * output, last


class OwnBefore(fa.nn.GRU):
    """The same on a module of feedalign's."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Any:
        output, last = super().forward(input, hx)
        return 2 * output, last


class Renamed(fa.nn.GRU):
    """No forward of its own."""


@pytest.mark.parametrize("kind", [Own, OwnBefore, lambda *args, **o: OwnBefore(*args, **o, reset="before")])
def test_a_module_with_a_forward_of_its_own_is_refused(kind: Callable[..., nn.Module]) -> None:
    model = of(lambda: kind(INPUTS, HIDDEN, batch_first=True))
    words = ("'rnn' is Own", "forward of its own", "fa.nn", "fa.Backprop()")
    assert_refused(model, errors.UnsuitableModelError, *words, example_inputs=x)
    assert_refused(model, errors.UnsuitableModelError, *words, example_inputs=x, points="rnn")


def test_a_forward_set_on_the_very_module_is_refused_and_kept() -> None:
    model = of(gru())
    own = model.rnn.forward
    model.rnn.forward = lambda *args: own(*args)
    mine = model.rnn.forward
    assert_refused(model, errors.UnsuitableModelError, "'rnn'", "forward of its own", example_inputs=x)
    assert model.rnn.forward is mine


@pytest.mark.parametrize("options", [{}, {"reset": "before"}])
def test_a_subclass_without_a_forward_of_its_own_is_taken(options: dict[str, Any]) -> None:
    model = of(lambda: Renamed(INPUTS, HIDDEN, batch_first=True, **options))
    attached(model)
    cross_entropy(model(x), y).backward()
    assert all(grad.any() for grad in gradients(model).values())


class WithBlock(Seeded):
    """A module that no rule knows, and a layer that one can teach."""

    def build(self, rnn: Callable[[], nn.Module]) -> None:
        self.rnn, self.fc, self.act, self.head = rnn(), nn.Linear(HIDDEN, 9), nn.Tanh(), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.fc(self.rnn(x)[0][:, -1])))


@pytest.mark.parametrize("rnn", [lambda: Own(INPUTS, HIDDEN, batch_first=True), gru()])
def test_an_unknown_module_may_keep_exact_backprop(rnn: Callable[[], nn.Module]) -> None:
    """The ways out that the words name, and points that leave it out."""
    for rules, points in (({"rnn": fa.Backprop(), "*": fa.DFA()}, None), (fa.DFA(), "act"), (fa.DFA(), nn.Tanh)):
        model = WithBlock(0, rnn=rnn).double()
        handle = fa.attach(model, rules, example_inputs=x, points=points)
        cross_entropy(model(x), y).backward()
        plain = WithBlock(0, rnn=rnn).double()
        logits = plain(x)
        (error,) = torch.autograd.grad(cross_entropy(logits, y), logits)
        activation = torch.tanh(plain.fc(plain.rnn(x)[0][:, -1]))
        exact = torch.autograd.grad(activation, plain.rnn.weight_hh_l0, error @ handle.feedback_at("act"))[0]
        torch.testing.assert_close(model.rnn.weight_hh_l0.grad, exact, rtol=1e-12, atol=1e-12)


def cell_loop(model: Model, x: Tensor) -> Tensor:
    states = None
    for t in range(x.shape[1]):
        states = model.rnn(x[:, t], states)
    return model.head(states[0] if isinstance(states, tuple) else states)


class TaughtCellLoop(Seeded):
    """A loop of an nn.GRUCell below a layer with a point."""

    def build(self, cut: bool = False) -> None:
        self.cell, self.point = nn.GRUCell(INPUTS, HIDDEN), fa.FeedbackPoint() if cut else nn.Identity()
        self.fc, self.act, self.head = nn.Linear(HIDDEN, 9), nn.Tanh(), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), HIDDEN)
        for t in range(x.shape[1]):
            state = self.point(self.cell(x[:, t], state))
        return self.head(self.act(self.fc(state)))


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_loops_of_cells_are_refused(kind: str) -> None:
    model = WithCell(0, kind=kind).double()
    words = ("'cell'", f"nn.{kind}", "step by step", f"nn.{kind.removesuffix('Cell')},", "fa.FeedbackPoint()")
    assert_refused(model, errors.UnsuitableModelError, *words, example_inputs=x)


class WithCell(Seeded):
    """A loop of any cell, then a layer with a point."""

    def build(self, kind: str) -> None:
        self.cell = getattr(nn, kind)(INPUTS, HIDDEN)
        self.fc, self.act, self.head = nn.Linear(HIDDEN, 9), nn.Tanh(), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states = None
        for t in range(x.shape[1]):
            states = self.cell(x[:, t], states)
        return self.head(self.act(self.fc(states[0] if isinstance(states, tuple) else states)))


def test_a_loop_of_cells_with_a_cut_behind_each_call_is_taught() -> None:
    model = TaughtCellLoop(0, cut=True).double()
    attached(model)
    cross_entropy(model(x), y).backward()
    assert model.cell.weight_hh.grad.any()


@pytest.mark.parametrize("rule", [fa.Backprop(), fa.FA(), {"cell": fa.Backprop(), "*": fa.DFA()}], ids=str)
def test_a_loop_of_cells_may_keep_exact_backprop(rule: Any) -> None:
    model = TaughtCellLoop(0).double()
    attached(model, rule)
    cross_entropy(model(x), y).backward()
    assert model.cell.weight_hh.grad.any()


class Begins(Seeded):
    """States before the first step that something trainable makes."""

    def build(self, how: str) -> None:
        self.rnn, self.head = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, CLASSES)
        self.start, self.linear, self.how = nn.Parameter(torch.zeros(1, 1, HIDDEN)), nn.Linear(INPUTS, HIDDEN), how

    def forward(self, x: Tensor) -> Tensor:
        state = None
        if self.how == "parameter":
            state = self.start.expand(-1, len(x), -1)
        elif self.how == "layer":
            state = torch.tanh(self.linear(x[:, 0])).unsqueeze(0)
        elif self.how == "detached":
            state = torch.tanh(self.linear(x[:, 0])).unsqueeze(0).detach()
        return self.head(self.rnn(x, state)[0][:, -1])


STATE_WORDS = ("'rnn'", "initial state", "held constant", "fa.FeedbackPoint()", "detach()")


@pytest.mark.parametrize("how", ["parameter", "layer"])
def test_initial_states_with_a_gradient_are_refused(how: str) -> None:
    assert_refused(Begins(0, how=how).double(), errors.UntaughtLayerError, *STATE_WORDS, example_inputs=x)
    later = Begins(0, how="none").double()
    attached(later)
    later.how = how
    assert_raises(lambda: later(x), errors.UntaughtLayerError, *STATE_WORDS)
    later.how = "detached"
    cross_entropy(later(x), y).backward()


def test_a_bare_parameter_as_initial_state_is_refused() -> None:
    class Bare(Seeded):
        def build(self) -> None:
            self.rnn, self.head = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.Linear(HIDDEN, CLASSES)
            self.start = nn.Parameter(torch.zeros(1, 4, HIDDEN))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x, self.start)[0][:, -1])

    assert_refused(Bare(0).double(), errors.UntaughtLayerError, *STATE_WORDS, example_inputs=x)


def test_one_number_for_each_step_is_ambiguous() -> None:
    words = ("(4, 5)", "'rnn.layer0'", "5 steps", "[N, T, 1]", "another length")
    model = of(gru(), lambda model, x: model.head(model.rnn(x)[0])[..., 0])
    assert_refused(model, errors.AmbiguousShapeError, *words, example_inputs=x)
    as_many_classes = of(gru(), lambda model, x: model.head(model.rnn(x)[0][:, -1])[:, :5])
    assert_refused(as_many_classes, errors.AmbiguousShapeError, *words, example_inputs=x)
    attached(as_many_classes, inputs=x[:, :3])
    kept = of(gru(), lambda model, x: model.head(model.rnn(x)[0])[..., :1])
    attached(kept)
    kept(x).sum().backward()


def test_as_many_steps_as_samples_are_ambiguous_where_steps_come_first() -> None:
    model = of(gru(batch_first=False), all_steps)
    words = ("samples and steps cannot be told apart", "sizes differ", f"(4, 4, {CLASSES})")
    assert_refused(model, errors.AmbiguousShapeError, *words, example_inputs=x[:, :4])
    attached(model, inputs=x.transpose(0, 1))
    model(x[:, :4]).sum().backward()


@pytest.mark.parametrize("rule", [fa.ActivityPerturbed(), fa.LocalGreedy()], ids=lambda rule: rule.name)
def test_slopes_of_samples_want_samples_first(rule: fa.Rule) -> None:
    for num_steps in (4, 5):
        model = of(gru(batch_first=False, num_layers=3), all_steps)
        inputs = x[:, :num_steps].transpose(0, 1)
        with pytest.raises(errors.AmbiguousShapeError):
            fa.attach(model, rule, example_inputs=inputs)
    words = ("steps first", f"fa.{type(rule).__name__}", "Return [N, T, C]")
    assert_refused(model, errors.AmbiguousShapeError, *words, rule=rule, example_inputs=inputs)
    samples_first = of(gru(batch_first=False, num_layers=3), lambda model, x: all_steps(model, x).transpose(0, 1))
    attached(samples_first, rule, inputs)
    cross_entropy(samples_first(inputs), torch.zeros(4, 5, dtype=torch.long)).backward()


def test_other_sizes_of_the_output_are_noticed_in_training() -> None:
    model = of(gru(), lambda model, x: all_steps(model, x)[:, :5])
    attached(model)
    longer = torch.cat([x, x], 1)
    assert_raises(lambda: model(longer), errors.FeedbackShapeError, "'rnn.layer0'", "(4, 5)", "(4, 10)")


LENGTHS: list[tuple[Any, tuple[str, ...]]] = [
    ([3, 5, 1, 4], ("list", "integers [N]", "mask [N, T]")),
    (torch.tensor([3.0, 5.0, 1.0, 4.0]), ("float32", "integers [N]")),
    (torch.tensor([True, False, True, True]), ("bool", "(4,)", "integers [N]")),
    (torch.tensor([[3, 5], [1, 4]]), ("int64", "(2, 2)", "integers [N]")),
    (torch.tensor(3), ("int64", "()", "integers [N]")),
    (torch.ones(4, 5), ("float32", "(4, 5)", "torch.bool")),
    (None, ("NoneType",)),
    (torch.tensor([3, 5, 0, 4]), ("below 1", "leave empty")),
    (torch.tensor([3, 5, -1, 4]), ("below 1",)),
]


@pytest.mark.parametrize(("lengths", "words"), LENGTHS)
def test_lengths_that_are_none_are_refused(lengths: Any, words: tuple[str, ...]) -> None:
    handle = attached(of(gru()))
    assert_raises(lambda: handle.lengths(lengths), errors.SequenceError, "handle.lengths", *words)
    handle.model(x)


MISFITS: list[tuple[Tensor, tuple[str, ...]]] = [
    (torch.tensor([3, 5, 1]), ("'rnn'", "3", "4 of 5 steps", "lengths [N]", "mask [N, T]")),
    (torch.tensor([3, 6, 1, 4]), ("'rnn'", "6", "4 of 5 steps")),
    (torch.ones(4, 6, dtype=torch.bool), ("'rnn'", "(4, 6)", "4 of 5 steps")),
    (torch.ones(5, 4, dtype=torch.bool), ("'rnn'", "(5, 4)", "4 of 5 steps")),
]


@pytest.mark.parametrize(("lengths", "words"), MISFITS)
def test_lengths_that_do_not_fit_the_sequences_are_refused(lengths: Tensor, words: tuple[str, ...]) -> None:
    model = of(gru())
    handle = attached(model)
    handle.lengths(lengths)
    assert_raises(lambda: model(x), errors.SequenceError, "handle.lengths", *words)
    cross_entropy(model(x), y).backward()


def test_lengths_are_refused_where_nobody_needs_them() -> None:
    flat = Perceptron()
    words = ("for recurrent layers", "none in this model")
    assert_raises(lambda: attached(flat, inputs=batch()[0]).lengths(torch.ones(6).long()), errors.SequenceError, *words)
    handle = attached(WithBlock(0, rnn=gru()).double(), {"rnn": fa.Backprop(), "*": fa.DFA()})
    assert_raises(lambda: handle.lengths(torch.ones(4).long()), errors.SequenceError, *words)
    handle.remove()
    assert_raises(lambda: handle.lengths(torch.ones(4).long()), errors.AttachError, "removed")


def test_lengths_of_packed_sequences_are_refused() -> None:
    packed = Case(lengths=PACKED)
    model = packed.model()
    handle = fa.attach(model, fa.DFA(), example_inputs=packed.inputs())
    handle.lengths(torch.tensor(PACKED))
    words = ("'rnn'", "packed", "leave handle.lengths out")
    assert_raises(lambda: model(*packed.inputs()), errors.SequenceError, *words)
    cross_entropy(model(*packed.inputs()), packed.targets()).backward()


@pytest.mark.parametrize("rule", [fa.ActivityPerturbed(), fa.LocalGreedy(), fa.FDFA(), fa.DKP()], ids=lambda r: r.name)
def test_every_rule_that_teaches_steps_takes_lengths(rule: fa.Rule) -> None:
    model = of(gru(num_layers=3))
    handle = attached(model, rule)
    handle.lengths(torch.tensor(PACKED))
    cross_entropy(model(x), y).backward()


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan"), float("inf")])
@pytest.mark.parametrize("rule", [fa.DFA, fa.SignDFA, fa.DRTP, fa.DKP, fa.FDFA])
def test_discounts_lie_between_zero_and_one(rule: type[fa.Rule], gamma: float) -> None:
    assert_raises(lambda: rule(gamma=gamma), errors.AttachError, f"fa.{rule.__name__}(gamma={gamma!r})", "from 0 to 1")


@pytest.mark.parametrize("gamma", [None, "1"])
def test_discounts_are_numbers(gamma: Any) -> None:
    assert_raises(lambda: fa.DFA(gamma=gamma), errors.AttachError, f"gamma={gamma!r}", "from 0 to 1")


def test_drtp_on_rectified_states_is_refused() -> None:
    model = of(lambda: nn.RNN(INPUTS, HIDDEN, batch_first=True, nonlinearity="relu"))
    words = ("DRTP at 'rnn.layer0'", "saturates", "allow_unbounded=True")
    assert_refused(model, errors.UnsuitableModelError, *words, rule=fa.DRTP(), example_inputs=x)
    attached(model, fa.DRTP(allow_unbounded=True))


def test_rectified_states_that_start_at_zero_are_refused() -> None:
    model = of(lambda: nn.RNN(INPUTS, HIDDEN, batch_first=True, nonlinearity="relu"))
    for parameter in model.rnn.parameters():
        nn.init.zeros_(parameter)
    words = ("rnn starts at zero", "'rnn.layer0'", "no weight would ever move")
    assert_refused(model, errors.UnsuitableModelError, *words, example_inputs=x)
    saturating = of(lambda: nn.RNN(INPUTS, HIDDEN, batch_first=True))
    for parameter in saturating.rnn.parameters():
        nn.init.zeros_(parameter)
    attached(saturating)


@pytest.mark.parametrize("options", [{"feedback": "separate"}, {"reset": "before", "reset_gate": "feedback"}])
@pytest.mark.parametrize("rule", [fa.FDFA(), fa.FDFA(update="ema"), fa.ActivityPerturbed(), fa.LocalGreedy()], ids=repr)
def test_states_with_several_signals_are_not_perturbed(rule: fa.Rule, options: dict[str, Any]) -> None:
    model = of(lambda: fa.nn.GRU(INPUTS, HIDDEN, 3, batch_first=True, **options))
    words = (type(rule).__name__, "'rnn.layer", 'feedback="shared"', 'reset_gate="exact"')
    assert_refused(model, errors.UnsuitableModelError, *words, rule=rule, example_inputs=x)


def test_several_perturbations_in_one_pass_are_refused() -> None:
    words = ("num_perturbations=2", "One perturbation per step".lower())
    with pytest.raises(errors.AttachError) as caught:
        attached(of(gru()), fa.FDFA(num_perturbations=2))
    assert all(word in str(caught.value).lower() for word in words)


def test_outputs_of_packed_rows_are_refused_with_a_way_out() -> None:
    def rows(model: Model, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor(PACKED), batch_first=True, enforce_sorted=False)
        return model.head(model.rnn(packed)[0].data)

    def padded_further(model: Model, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.tensor((3, 4, 1, 4)), batch_first=True, enforce_sorted=False)
        return model.head(pad_packed_sequence(model.rnn(packed)[0], batch_first=True, total_length=5)[0])

    assert_refused(of(gru(), rows), errors.AmbiguousShapeError, "unpack packed sequences", example_inputs=x)
    assert_refused(of(gru(), padded_further), errors.AmbiguousShapeError, "total_length", example_inputs=x)


def test_points_inside_the_module_are_named_in_refusals() -> None:
    model = of(gru(num_layers=2))
    words = ("'rnn.layer5'", "Near names: rnn.layer")
    assert_refused(model, errors.NoFeedbackPointError, *words, example_inputs=x, points="rnn.layer5")
    words = ("feedback=", "'rnn'", "rnn.layer0")
    assert_refused(model, errors.AttachError, *words, example_inputs=x, feedback={"rnn": torch.ones(CLASSES, HIDDEN)})
    words = ("feedback['rnn.layer0']", f"({CLASSES}, {HIDDEN})")
    wrong = {f"rnn.layer{number}": torch.ones(CLASSES, HIDDEN + 1) for number in range(2)}
    assert_refused(model, errors.FeedbackShapeError, *words, example_inputs=x, feedback=wrong)


def test_more_calls_than_on_the_example_inputs_are_refused() -> None:
    model = of(gru(), lambda model, x: sum(last_step(model, x) for _ in range(model.calls)))
    model.calls = 1
    attached(model)
    model.calls = 2
    assert_raises(lambda: model(x), errors.PointNotFiredError, "'rnn.layer0'", "fired 2 times")
    model.calls = 0
    model.run = lambda model, x: model.head(x.new_ones(4, HIDDEN))
    assert_raises(lambda: model(x), errors.PointNotFiredError, "rnn.layer0", "did not fire")


def test_a_bare_recurrent_module_has_no_output_of_one_tensor() -> None:
    assert_refused(nn.GRU(INPUTS, HIDDEN).double(), errors.OutputError, "tuple", example_inputs=x)
    assert_refused(Reader(0, case=case).double(), errors.OutputError, "'rnn'", example_inputs=x, output="rnn")


def test_a_part_of_an_attached_model_is_attached_already() -> None:
    model = Beside(0).double()
    attached(model)
    for part in (model, model.rnn):
        assert_refused(part, errors.AlreadyAttachedError, "already", "handle.remove()", example_inputs=x)


class Beside(Seeded):
    """A part that is a model in itself."""

    def build(self) -> None:
        self.rnn = Reader(0, case=Case(readout="last"))
        self.head = nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x))


class Translator(nn.Module):
    """An encoder whose last state begins a decoder, which has an output at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 5, batch_first=True)
        self.decoder = nn.GRU(2, 5, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder(target, self.encoder(source)[1])[0])


@pytest.mark.parametrize("num_steps", [6, 7])
def test_an_encoder_read_at_its_end_is_refused_under_errors_of_steps(num_steps: int) -> None:
    inputs = (torch.randn(4, 6, 3), torch.randn(4, num_steps, 2))
    with pytest.raises(errors.AmbiguousShapeError, match=r"'encoder' only the last state is used.*fa\.Shallow\(\)"):
        fa.attach(Translator(), fa.DFA(), example_inputs=inputs)
    handle = fa.attach(Translator(), {"encoder": fa.Shallow(), "*": fa.DFA()}, example_inputs=inputs)
    assert [row.point for row in handle.describe().rows if row.layer == "decoder"] == ["decoder.layer0"]
