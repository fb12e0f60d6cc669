"""Streaming DRTP through recurrent modules: the gradients of DRTP from the error, in memory that is flat in time."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from attach.models import Seeded
from attach.refusal import assert_says
from feedalign import errors
from feedalign.recurrent import streaming
from integration.gradients import assert_same_gradients, gradients
from recurrent.readers import CLASSES, HIDDEN, INPUTS, KINDS, Case, Reader, cross_entropy, feedback_for

TOLERANCE = 1e-12
PACKED = (3, 5, 1, 4)


@pytest.fixture(autouse=True)
def _in_parts_of_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts for five steps, the last one shorter."""
    monkeypatch.setattr(streaming, "STEPS_OF_A_PART", 2)


FORMS: dict[str, Case] = {
    "one layer": Case(readout="last"),
    "three layers, steps first": Case(options={"num_layers": 3, "batch_first": False}, readout="last"),
    "the state is read": Case(options={"num_layers": 2}),
    "the mean is read": Case(readout="mean"),
    "given states": Case(options={"num_layers": 2}, readout="last", has_states=True),
    "without biases": Case(options={"num_layers": 2, "bias": False}),
    "above an embedding": Case(options={"num_layers": 2}, below="embedding"),
    "above a linear layer, steps first": Case(options={"batch_first": False}, below="linear"),
    "both directions": Case(options={"num_layers": 2, "bidirectional": True}, below="linear"),
    "packed": Case(options={"num_layers": 2}, lengths=PACKED),
    "packed in both directions": Case(options={"bidirectional": True}, lengths=PACKED, has_states=True),
    "classes of steps": Case(options={"num_layers": 2}, readout="steps", below="embedding"),
    "classes of steps, steps first": Case(options={"num_layers": 2, "batch_first": False}, readout="steps"),
    "classes of steps in both directions": Case(options={"bidirectional": True, "batch_first": False}, readout="steps"),
}


def attached(case: Case, rule: fa.Rule | None = None, model: nn.Module | None = None) -> nn.Module:
    model = case.model() if model is None else model
    rule = rule or fa.DRTP(gamma=0.7, allow_unbounded=case.kind == "relu")
    fa.attach(model, rule, example_inputs=case.inputs(), feedback=feedback_for(model.rnn))
    return model


def step(case: Case, model: nn.Module, *, streams: bool, lengths: Tensor | None = None) -> dict[str, Tensor | None]:
    """Gradients of a step, learned from the targets or from the error."""
    model.zero_grad()
    handle = fa.handle_of(model)
    handle.targets(case.targets() if streams else None)
    if lengths is not None:
        handle.lengths(lengths)
    cross_entropy(model(*case.inputs()), case.targets()).backward()
    return gradients(model)


def assert_streams(case: Case, **options: Any) -> None:
    model = attached(case)
    from_error = step(case, model, streams=False, **options)
    assert_same_gradients(step(case, model, streams=True, **options), from_error, TOLERANCE)
    assert_same_gradients(step(case, model, streams=False, **options), from_error, tolerance=0)
    assert all(grad is not None and grad.any() for grad in from_error.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "GRU before, own reset"])
def test_streaming_gives_the_gradients_of_learning_from_the_error(kind: str, form: str) -> None:
    assert_streams(FORMS[form].of(kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_streams(kind: str) -> None:
    assert_streams(Case(kind, {"num_layers": 2}, "linear", has_states=True))


@pytest.mark.parametrize("readout", ["last", "steps"])
@pytest.mark.parametrize("as_mask", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_teaches_nothing(bidirectional: bool, as_mask: bool, readout: str) -> None:
    lengths = torch.arange(5) < torch.tensor(PACKED)[:, None] if as_mask else torch.tensor(PACKED)
    assert_streams(Case("LSTM", {"bidirectional": bidirectional}, readout=readout), lengths=lengths)
    case = Case("LSTM", {"bidirectional": bidirectional}, readout=readout)
    with_padding, without = (step(case, attached(case), streams=True, lengths=told) for told in (None, lengths))
    assert not torch.allclose(with_padding["rnn.weight_hh_l0"], without["rnn.weight_hh_l0"])


def test_parts_are_as_large_as_rows_and_steps_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("GRU", num_steps=9, num_samples=4)
    model = attached(case)
    expected = step(case, model, streams=False)
    lengths: list[int] = []
    forward = model.rnn.forward
    apply = forward.apply

    def noted(layer: int, form: Any, *others: Any) -> Any:
        lengths.append(form.steps.num_steps)
        return apply(layer, form, *others)

    monkeypatch.setattr(forward, "apply", noted)
    for steps, rows, parts in ((64, 1536, [9]), (4, 1536, [4, 4, 1]), (64, 13, [3, 3, 3]), (64, 1, [1] * 9)):
        lengths.clear()
        monkeypatch.setattr(streaming, "STEPS_OF_A_PART", steps)
        monkeypatch.setattr(streaming, "ROWS_OF_A_PART", rows)
        assert_same_gradients(step(case, model, streams=True), expected, TOLERANCE)
        assert lengths == parts


def test_scales_and_soft_targets_are_followed() -> None:
    case = Case("GRU", {"num_layers": 2}, "linear")
    model = attached(case)
    expected = step(case, model, streams=True)
    handle, (x, *_) = fa.handle_of(model), case.inputs()
    targets = nn.functional.one_hot(case.targets(), CLASSES).double()
    for given, scale in ((case.targets(), 0.75), (targets, 0.75), (case.targets(), torch.full((4,), 0.75))):
        model.zero_grad()
        handle.targets(given, scale=scale)
        (3 * cross_entropy(model(x), case.targets())).backward()
        assert_same_gradients(gradients(model), {name: 3 * grad for name, grad in expected.items()}, TOLERANCE)


def test_streaming_accumulates() -> None:
    case = Case("LSTM", {"num_layers": 2}, "embedding")
    model = attached(case)
    expected = step(case, model, streams=True)
    model.zero_grad()
    for rows in (slice(0, 3), slice(3, 4)):
        targets = case.targets()[rows]
        fa.handle_of(model).targets(targets, scale=0.25)
        (cross_entropy(model(case.inputs()[0][rows]), targets) * len(targets) / 4).backward()
    assert_same_gradients(gradients(model), expected, TOLERANCE)


@pytest.mark.parametrize("frozen", ["rnn.weight_hh_l0", "_l0", "_l1", "embedding"])
def test_frozen_parameters_are_left_alone(frozen: str) -> None:
    case = Case("GRU", {"num_layers": 2}, "embedding")
    model = case.model()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    fa.attach(model, fa.DRTP(), example_inputs=case.inputs())
    from_error = step(case, model, streams=False)
    assert_same_gradients(step(case, model, streams=True), from_error, TOLERANCE)
    assert sorted({name for name, grad in from_error.items() if grad is None}) == sorted(
        name for name, _ in model.named_parameters() if frozen in name
    )


def test_an_empty_batch_streams_zeros() -> None:
    case = Case("GRU", {"num_layers": 2}, "linear")
    model = attached(case)
    fa.handle_of(model).targets(case.targets()[:0])
    model(case.inputs()[0][:0]).sum().backward()
    assert not any(grad.any() for grad in gradients(model).values())


def test_gradients_of_the_inputs_stream_too() -> None:
    case = Case("GRU", {"num_layers": 2, "batch_first": False})
    model, x = attached(case), case.inputs()[0].requires_grad_()
    found = []
    for targets in (None, case.targets()):
        x.grad = None
        fa.handle_of(model).targets(targets)
        cross_entropy(model(x), case.targets()).backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=TOLERANCE)


def test_dropout_between_layers_streams() -> None:
    """Each part draws its own masks, as many numbers as the whole; without dropout nothing is drawn."""
    case = Case("GRU", {"num_layers": 3, "dropout": 0.5, "batch_first": False}, readout="steps")
    model = attached(case)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        step(case, model, streams=True)
        outputs.append(gradients(model)["rnn.weight_hh_l2"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    model.eval()
    assert_same_gradients(step(case, model, streams=True), step(case, model, streams=False), TOLERANCE)


class Uses(Seeded):
    """Reads the output sequence in any way."""

    def build(self, case: Case, use: Callable[..., Tensor]) -> None:
        self.rnn = nn.GRU(INPUTS, HIDDEN, batch_first=case.batch_first, num_layers=2)
        self.head, self.use = nn.Linear(HIDDEN, CLASSES), use

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return self.use(self, self.rnn(x)[0])


USES: dict[str, Callable[[Uses, Tensor], Tensor]] = {
    "last step": lambda model, o: model.head(o[:, -1]),
    "last step by its number": lambda model, o: model.head(o[:, 4]),
    "last step among all": lambda model, o: model.head(o[..., -1, :]),
    "last step kept as one": lambda model, o: model.head(o[:, -1:].squeeze(1)),
    "first step": lambda model, o: model.head(o[:, 0]),
    "steps first, last one": lambda model, o: model.head(o.transpose(0, 1)[-1]),
    "valid steps": lambda model, o: model.head(o[torch.arange(4), torch.tensor(PACKED) - 1]),
    "largest": lambda model, o: model.head(o.max(1)[0]),
    "mean of a product": lambda model, o: model.head(o).mean(1),
    "flattened": lambda model, o: model.head(o.reshape(4, -1)[:, -HIDDEN:]),
    "normalized": lambda model, o: model.head(nn.functional.layer_norm(o, (HIDDEN,))[:, -1]),
    "weighed": lambda model, o: model.head((o * torch.softmax(o.sum(-1, keepdim=True), 1)).sum(1)),
    "detached": lambda model, o: model.head(o.detach()[:, -1]),
    "cloned": lambda model, o: model.head(o.clone()[:, -1]),
    "shown": lambda model, o: model.head(o[:, -1]) if repr(o) and o.shape == (4, 5, HIDDEN) else o,
    "one column": lambda model, o: model.head(o.select(2, 0).unsqueeze(-1).expand(-1, -1, HIDDEN)[:, -1]),
    "one sample": lambda model, o: model.head(torch.stack([o[n][-1] for n in range(4)])),
}


@pytest.mark.parametrize("use", USES)
def test_the_output_sequence_may_be_used_in_any_way(use: str) -> None:
    """What was not kept is made again, with the right values."""
    case = Case(options={"num_layers": 2})
    model = attached(case, model=Uses(0, case=case, use=USES[use]).double())
    from_error = step(case, model, streams=False)
    assert_same_gradients(step(case, model, streams=True), from_error, TOLERANCE)
    with torch.no_grad():
        expected = model(*case.inputs())
    fa.handle_of(model).targets(case.targets())
    torch.testing.assert_close(model(*case.inputs()), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("use", ["last", "second last", "first"])
def test_of_steps_that_come_first_the_last_is_kept(use: str) -> None:
    number = {"last": -1, "second last": 3, "first": 0}[use]
    case = Case(options={"batch_first": False, "num_layers": 2})
    model = Uses(0, case=case, use=lambda model, o: model.head(o[number])).double()
    model = attached(case, model=model)
    assert_same_gradients(step(case, model, streams=True), step(case, model, streams=False), TOLERANCE)


class Keeps(Reader):
    """Holds on to the output sequence."""

    def read(self, output: Any, last: Any) -> Tensor:
        self.kept = output
        return super().read(output, last)


def test_an_output_sequence_is_made_again_until_the_optimizer_steps_and_then_refused() -> None:
    case = Case("LSTM", {"num_layers": 2}, readout="last")
    model = attached(case, model=Keeps(0, case=case).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected, _ = case.model().rnn(case.inputs()[0])
    step(case, model, streams=True)
    torch.testing.assert_close(model.kept + 0, expected, rtol=TOLERANCE, atol=TOLERANCE)
    last = model.kept[:, -1].clone()
    optimizer.step()
    assert torch.equal(model.kept[:, -1], last)
    assert model.kept.shape == expected.shape
    with pytest.raises(errors.FeedalignError) as caught:
        model.kept.sum()
    assert_says(caught.value, errors.StreamingError, "'rnn'", "weights have changed", "before the optimizer")


def test_making_it_again_teaches_nothing() -> None:
    case = Case("GRU", readout="last")
    model = attached(case, model=Keeps(0, case=case).double())
    before = step(case, model, streams=True)
    model.kept.sum()
    assert not (model.kept * 1).requires_grad
    assert_same_gradients(gradients(model), before, tolerance=0)


def test_a_module_on_another_streams() -> None:
    class Stacked(Seeded):
        def build(self) -> None:
            self.rnn, self.upper = nn.GRU(INPUTS, HIDDEN, batch_first=True), nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
            self.head = nn.Linear(HIDDEN, CLASSES)

        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            return self.head(self.upper(self.rnn(x)[0])[0][:, -1])

    case, model = Case(), Stacked(0).double()
    fa.attach(model, fa.DRTP(), example_inputs=case.inputs())
    assert_same_gradients(step(case, model, streams=True), step(case, model, streams=False), TOLERANCE)


@pytest.mark.parametrize("rules", [
    {"rnn.layer0": fa.DRTP(), "*": fa.DFA()},
    {"rnn.layer1": fa.DRTP(), "*": fa.DFA()},
    {"rnn*": fa.DRTP(), "*": fa.DFA()},
    {"rnn*": fa.DFA(), "*": fa.DRTP()},
])  # fmt: skip
def test_some_layers_stream_and_others_learn_from_the_error(rules: dict[str, fa.Rule]) -> None:
    class Mixed(Seeded):
        def build(self) -> None:
            self.rnn = nn.GRU(INPUTS, HIDDEN, 2, batch_first=True)
            self.fc, self.act, self.head = nn.Linear(HIDDEN, 9), nn.Tanh(), nn.Linear(9, CLASSES)

        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            return self.head(self.act(self.fc(self.rnn(x)[0][:, -1])))

    case, model = Case(), Mixed(0).double()
    fa.attach(model, rules, example_inputs=case.inputs())
    from_error = step(case, model, streams=False)
    assert_same_gradients(step(case, model, streams=True), from_error, TOLERANCE)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_streams_as_the_original_does(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    case = Case("LSTM", {"num_layers": 2}, "embedding")
    model = attached(case)
    expected = step(case, model, streams=True)
    fa.handle_of(model).targets(case.targets())
    twin = duplicate(model)
    assert_same_gradients(step(case, twin, streams=True), expected, tolerance=0)


@pytest.mark.parametrize("num_steps", [2, 5])
def test_a_checkpointed_module_streams_or_is_refused(num_steps: int) -> None:
    class Checkpointed(Reader):
        def forward(self, x: Tensor, *rest: Any) -> Tensor:
            return self.head(checkpoint(lambda rows: self.rnn(rows)[0], x, use_reentrant=False)[:, -1])

    case = Case("GRU", {"num_layers": 2}, readout="last", num_steps=num_steps)
    expected = step(case, attached(case), streams=False)
    model = attached(case, model=Checkpointed(0, case=case).double())
    try:
        found = step(case, model, streams=True)
    except errors.FeedalignError as error:
        assert_says(error, errors.StreamingError, "checkpointing", "handle.targets(None)")
    else:
        assert_same_gradients(found, expected, TOLERANCE)


@pytest.mark.parametrize("lost", ["rnn.weight_ih_l0", "rnn.bias_hh_l1", "embedding.weight"])
@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_thrown_away_before_the_backward_are_noticed(lost: str, to_none: bool) -> None:
    case = Case("GRU", {"num_layers": 2}, "embedding")
    model = attached(case)
    fa.handle_of(model).targets(case.targets())
    loss = cross_entropy(model(*case.inputs()), case.targets())
    parameter = model.get_parameter(lost)
    if to_none:
        parameter.grad = None
    else:
        parameter.grad.zero_()
    with pytest.raises(errors.StreamingError, match="thrown away before the optimizer"):
        loss.backward()


@pytest.mark.parametrize("readout", ["last", "steps"])
def test_targets_that_do_not_fit_are_refused_and_leave_no_gradient(readout: str) -> None:
    case = Case("GRU", {"num_layers": 2}, "linear", readout)
    model = attached(case)
    handle = fa.handle_of(model)
    handle.targets(case.targets()[:3])
    with pytest.raises(errors.TargetsError, match=r"targets were given.*'rnn.layer0'"):
        model(*case.inputs())
    assert all(grad is None for grad in gradients(model).values())
    assert_same_gradients(step(case, model, streams=True), step(case, model, streams=False), TOLERANCE)


def test_no_targets_for_a_forward_are_refused() -> None:
    case = Case()
    model = attached(case)
    step(case, model, streams=True)
    with pytest.raises(errors.TargetsError, match="No targets for this forward"):
        model(*case.inputs())
    with torch.no_grad():
        model(*case.inputs())


class Wide(Seeded):
    """A large state over a long sequence."""

    def build(self, kind: type[nn.RNNBase], batch_first: bool, readout: str) -> None:
        self.rnn, self.head = kind(3, 32, batch_first=batch_first), nn.Linear(32, CLASSES)
        self.time, self.readout = 1 if batch_first else 0, readout

    def forward(self, x: Tensor) -> Tensor:
        output, last = self.rnn(x)
        if self.readout == "last":
            return self.head(output[:, -1] if self.time == 1 else output[-1])
        return self.head((last[0] if isinstance(last, tuple) else last)[-1])


def peaks(model: Wide, handle: fa.Handle, *, streams: bool) -> list[int]:
    """The most memory that a step holds, for 100 steps and for 1000."""
    found = []
    for num_steps in (100, 1000):
        x = torch.randn(8, num_steps, 3)
        x = x if model.time == 1 else x.transpose(0, 1).contiguous()
        y = torch.arange(8) % CLASSES

        def step(x: Tensor = x, y: Tensor = y) -> None:
            handle.targets(y if streams else None)
            cross_entropy(model(x), y).backward()

        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        found.append(fa.measure.peak_memory(step))
    return found


@pytest.mark.parametrize(("batch_first", "readout"), [(True, "last"), (False, "last"), (True, "state")])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_memory_is_flat_in_time(kind: type[nn.RNNBase], batch_first: bool, readout: str) -> None:
    with mock.patch.object(streaming, "STEPS_OF_A_PART", 64):
        model = Wide(0, kind=kind, batch_first=batch_first, readout=readout)
        handle = fa.attach(model, fa.DRTP(), example_inputs=torch.randn(8, 7, 3).transpose(0, 1 - model.time))
        short, long = peaks(model, handle, streams=True)
        assert long <= 1.1 * short
        if readout == "state":
            assert peaks(model, handle, streams=False)[1] > 3 * long
