"""The layers that stand in the place of torch's: options, and a forward that is torch's in every respect."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

from feedalign import nn as fnn
from feedalign.errors import AttachError
from feedalign.recurrent.cell import Weights
from recurrent.sequences import reset_before_step

OURS: list[tuple[type[Any], type[nn.RNNBase]]] = [(fnn.RNN, nn.RNN), (fnn.GRU, nn.GRU), (fnn.LSTM, nn.LSTM)]
every_layer = pytest.mark.parametrize(("ours", "theirs"), OURS, ids=["rnn", "gru", "lstm"])
with_and_without_graph = pytest.mark.parametrize("graph", [True, False], ids=["graph", "no graph"])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(**options: Any) -> tuple[fnn.GRU, nn.GRU]:
    """The paper's GRU and torch's, with weights for which the two cells are one: W_hn diagonal and b_hn zero.

    Then `(r * h) W_hn^T = r * (h W_hn^T)`: torch's layer says what the paper's has to do in every respect.
    """
    options = {"num_layers": 2, "dtype": torch.float64} | options
    theirs = nn.GRU(3, 4, **options)
    with torch.no_grad():
        for seed, (name, parameter) in enumerate(theirs.named_parameters()):
            parameter.copy_(draw(*parameter.shape, seed=seed))
            if name.startswith("weight_hh"):
                parameter[8:] *= torch.eye(4)
            if name.startswith("bias_hh"):
                parameter[8:] = 0
    ours = fnn.GRU(3, 4, reset="before", **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors that a layer returns, in order."""
    for part in value:
        if isinstance(part, Tensor):
            yield part
        elif part is not None:
            yield from tensors(part)


def assert_same(one: Any, other: Any) -> None:
    """What two layers return is the same: values, layout and types."""
    assert type(one[0]) is type(other[0])
    for made, expected in zip(tensors(one), tensors(other), strict=True):
        torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12, check_stride=not isinstance(one[0], tuple))


def gradients(layer: nn.GRU, returned: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss that reads everything returned; of W_hn its diagonal alone, of b_hn nothing: there the cells differ."""
    parts = [part for part in tensors(returned) if part.is_floating_point()]
    loss = torch.stack([((index + 1.0) * part.sin()).sum() for index, part in enumerate(parts)]).sum()
    asked = inputs | dict(layer.named_parameters())
    made = dict(zip(asked, torch.autograd.grad(loss, list(asked.values())), strict=True))
    for name in [name for name in made if "_hh" in name]:
        if name.startswith("weight"):
            made[f"{name}, diagonal"] = made[name][8:].diagonal()
        made[name] = made[name][:8]
    return made


LAYOUTS = {
    "time first": ({}, (5, 2, 3), (2, 2, 4)),
    "batch first": ({"batch_first": True}, (2, 5, 3), (2, 2, 4)),
    "one sequence": ({}, (5, 3), (2, 4)),
    "one sequence, batch first": ({"batch_first": True}, (5, 3), (2, 4)),
    "two directions": ({"bidirectional": True}, (5, 2, 3), (4, 2, 4)),
    "three layers": ({"num_layers": 3}, (5, 2, 3), (3, 2, 4)),
    "no bias": ({"bias": False}, (5, 2, 3), (2, 2, 4)),
    "one step": ({}, (1, 2, 3), (2, 2, 4)),
    "no samples": ({"bidirectional": True}, (5, 0, 3), (4, 0, 4)),
    "dropout": ({"dropout": 0.5, "bidirectional": True}, (5, 2, 3), (4, 2, 4)),
    "dropout, batch first": ({"dropout": 0.5, "batch_first": True}, (2, 5, 3), (2, 2, 4)),
}


@with_and_without_graph
@pytest.mark.parametrize("given_state", [True, False], ids=["given state", "zeros"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_papers_gru_is_laid_out_as_torchs(layout: str, given_state: bool, graph: bool) -> None:
    options, shape, state_shape = LAYOUTS[layout]
    returned, made = [], []
    for layer in pair(**options):
        x, hx = draw(*shape).requires_grad_(), draw(*state_shape, seed=1).requires_grad_()
        torch.manual_seed(0)
        with torch.set_grad_enabled(graph):
            returned.append(layer(x, hx) if given_state else layer(x))
        if graph:
            made.append(gradients(layer, returned[-1], {"x": x, "hx": hx} if given_state else {"x": x}))
    assert_same(*returned)
    if graph:
        assert made[0].keys() == made[1].keys()
        torch.testing.assert_close(made[0], made[1], rtol=1e-10, atol=1e-12)


def packed(kind: str) -> tuple[PackedSequence, Tensor]:
    """Sequences that are sorted, or not; and their data."""
    lengths = [4, 4, 2, 1] if kind == "sorted" else [2, 4, 1, 4]
    data = draw(sum(lengths), 3).requires_grad_()
    return pack_sequence(list(data.split(lengths)), enforce_sorted=kind == "sorted"), data


@with_and_without_graph
@pytest.mark.parametrize("given_state", [True, False], ids=["given state", "zeros"])
@pytest.mark.parametrize("kind", ["sorted", "unsorted"])
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"dropout": 0.5}], ids=["two directions", "dropout"])
def test_the_papers_gru_takes_packed_sequences_as_torchs(
    options: dict[str, Any], kind: str, given_state: bool, graph: bool
) -> None:
    returned, made = [], []
    for layer in pair(**options):
        (x, data), hx = packed(kind), draw(4 if layer.bidirectional else 2, 4, 4, seed=1).requires_grad_()
        torch.manual_seed(0)
        with torch.set_grad_enabled(graph):
            returned.append(layer(x, hx) if given_state else layer(x))
        if graph:
            made.append(gradients(layer, returned[-1], {"x": data, "hx": hx} if given_state else {"x": data}))
    assert_same(*returned)
    if graph:
        torch.testing.assert_close(made[0], made[1], rtol=1e-10, atol=1e-12)


def test_the_papers_gru_is_the_papers() -> None:
    """With weights for which the two cells differ."""
    layer = fnn.GRU(3, 4, reset="before", dtype=torch.float64)
    x, states = draw(5, 2, 3), (torch.zeros(2, 4, dtype=torch.float64),)
    expected = []
    with torch.no_grad():
        for t in range(5):
            states = reset_before_step(x[t], states, Weights(*layer.all_weights[0]))
            expected.append(states[0])
        other = nn.GRU(3, 4, dtype=torch.float64)
        other.load_state_dict(layer.state_dict())
        torch.testing.assert_close(layer(x)[0], torch.stack(expected), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(layer(x)[0], other(x)[0], atol=1e-3)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected), rtol=1e-12, atol=1e-12)


BAD_INPUTS = {
    "four sizes": lambda: (draw(1, 5, 2, 3), None),
    "one size": lambda: (draw(3), None),
    "another width": lambda: (draw(5, 2, 4), None),
    "no steps": lambda: (draw(0, 2, 3), None),
    "no steps, one sequence": lambda: (draw(0, 3), None),
    "another type": lambda: (draw(5, 2, 3).float(), None),
    "state of too few layers": lambda: (draw(5, 2, 3), draw(1, 2, 4)),
    "state of other samples": lambda: (draw(5, 2, 3), draw(2, 3, 4)),
    "state of another width": lambda: (draw(5, 2, 3), draw(2, 2, 3)),
    "state with too few sizes": lambda: (draw(5, 2, 3), draw(2, 4)),
    "state with too many sizes": lambda: (draw(5, 3), draw(2, 1, 4)),
    "packed, another width": lambda: (pack_padded_sequence(draw(5, 2, 4), [5, 3]), None),
    "packed, state of other samples": lambda: (pack_padded_sequence(draw(5, 2, 3), [5, 3]), draw(2, 3, 4)),
    "no tensor": lambda: (None, None),
}


@with_and_without_graph
@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_refuses_what_torch_refuses_in_the_same_words(bad: str, graph: bool) -> None:
    said = []
    for layer in pair():
        with pytest.raises(Exception) as raised, torch.set_grad_enabled(graph):  # noqa: PT011
            layer(*BAD_INPUTS[bad]())
        said.append((raised.type, str(raised.value)))
    assert said[0] == said[1]


def test_a_state_of_another_type_is_refused() -> None:
    for graph in (True, False):
        with torch.set_grad_enabled(graph), pytest.raises(RuntimeError, match="dtype"):
            pair()[0](draw(5, 2, 3), draw(2, 2, 4).float())


@every_layer
@pytest.mark.parametrize("feedback", ["shared", "separate"])
def test_runs_as_torchs_layer_with_the_same_constructor_and_the_same_draw(
    ours: type[Any], theirs: type[nn.RNNBase], feedback: str
) -> None:
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    torch.manual_seed(0)
    one = ours(3, 4, feedback=feedback, **options)
    torch.manual_seed(0)
    other = theirs(3, 4, **options)
    assert one.state_dict().keys() == other.state_dict().keys()
    x = torch.randn(2, 5, 3)
    for made, expected in zip(tensors(one(x)), tensors(other(x)), strict=True):
        assert torch.equal(made, expected)
    assert isinstance(one, theirs)
    assert one.feedback == feedback


def test_positional_arguments_are_torchs() -> None:
    assert fnn.RNN(3, 4, 2, "relu", False).nonlinearity == "relu"
    assert fnn.GRU(3, 4, 2, False, True, reset="before").batch_first
    assert fnn.LSTM(3, 4, proj_size=2).proj_size == 2


@every_layer
def test_tells_its_options(ours: type[Any], theirs: type[nn.RNNBase]) -> None:
    assert "3, 4, num_layers=2, feedback='separate'" in repr(ours(3, 4, 2, feedback="separate"))
    assert "feedback='shared'" in repr(ours(3, 4))


def test_a_gru_tells_where_it_resets() -> None:
    assert repr(fnn.GRU(3, 4)) == "GRU(3, 4, feedback='shared', reset='after')"
    own = fnn.GRU(3, 4, reset="before", reset_gate="feedback")
    assert repr(own) == "GRU(3, 4, feedback='shared', reset='before', reset_gate='feedback')"


@every_layer
def test_refuses_an_unknown_feedback(ours: type[Any], theirs: type[nn.RNNBase]) -> None:
    with pytest.raises(AttachError, match=r"feedback='both'\): no such choice; give one of 'shared', 'separate'"):
        ours(3, 4, feedback="both")


def test_a_gru_refuses_options_that_do_not_exist_or_go_together() -> None:
    with pytest.raises(AttachError, match=r"fa.nn.GRU\(reset='never'\): no such choice; give one of 'before', 'after'"):
        fnn.GRU(3, 4, reset="never")  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="give one of 'exact', 'feedback'"):
        fnn.GRU(3, 4, reset="before", reset_gate="none")  # type: ignore[arg-type]
    with pytest.raises(AttachError, match="there is nothing that feedback could replace"):
        fnn.GRU(3, 4, reset_gate="feedback")
    assert fnn.GRU(3, 4, reset="before", reset_gate="feedback", feedback="separate").reset_gate == "feedback"


def test_torchs_own_checks_of_the_constructor_stay() -> None:
    with pytest.raises(ValueError, match="hidden_size"):
        fnn.GRU(3, 0, reset="before")
    with pytest.raises(ValueError, match="proj_size"):
        fnn.GRU(3, 4, proj_size=2)
    with pytest.raises(TypeError, match="unexpected"):
        fnn.RNN(3, 4, reset="before")


def pickled(layer: nn.Module) -> Any:
    return pickle.loads(pickle.dumps(layer))


def saved(layer: nn.Module) -> Any:
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("again", [copy.deepcopy, pickled, saved])
def test_a_copy_is_the_same_layer(again: Any) -> None:
    layer = fnn.GRU(3, 4, feedback="separate", reset="before", reset_gate="feedback", bidirectional=True)
    other, x = again(layer), torch.randn(5, 2, 3)
    assert (other.feedback, other.reset, other.reset_gate) == ("separate", "before", "feedback")
    assert torch.equal(other(x)[0], layer(x)[0])
    with torch.no_grad():
        layer.weight_ih_l0 += 1
    assert not torch.equal(other(x)[0], layer(x)[0])


def test_takes_the_state_of_torchs_layer_and_another_type() -> None:
    ours, theirs = pair()
    ours.load_state_dict(theirs.state_dict())
    half = copy.deepcopy(ours).to(torch.bfloat16)
    with torch.no_grad():
        made = half(draw(5, 2, 3).to(torch.bfloat16))[0]
        expected = ours(draw(5, 2, 3))[0]
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.double(), expected, rtol=0.1, atol=0.1)


@with_and_without_graph
def test_under_autocast_output_and_states_have_the_inputs_type_as_torchs(graph: bool) -> None:
    returned = []
    for layer in pair(dtype=torch.float32):
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(graph):
            returned.append(layer(draw(5, 2, 3).float()))
            assert layer(draw(5, 2, 3).bfloat16())[0].dtype == torch.bfloat16
    for one, other in zip(*returned, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_several_networks_run_at_once_under_vmap() -> None:
    layers = [fnn.GRU(3, 4, reset="before", bidirectional=True, dtype=torch.float64) for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(layers)  # type: ignore[arg-type]
    x = draw(5, 2, 3)

    def loss(own: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layers[0], own, (x,))[0].sin().sum()

    made = torch.func.vmap(torch.func.grad(loss))(parameters)
    for index, layer in enumerate(layers):
        expected = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
        for (name, _), value in zip(layer.named_parameters(), expected, strict=True):
            torch.testing.assert_close(made[name][index], value, rtol=1e-10, atol=1e-12)


def test_a_frozen_layer_passes_gradients_through_a_vmap() -> None:
    """Inside it a tensor does not tell that a gradient is asked for."""
    layer = fnn.GRU(3, 4, reset="before", dtype=torch.float64).requires_grad_(False)
    several = draw(3, 5, 2, 3).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return torch.func.vmap(lambda one: layer(one)[0].sin().sum())(x).sum()

    expected = torch.autograd.grad(torch.stack([layer(one)[0].sin().sum() for one in several]).sum(), several)[0]
    torch.testing.assert_close(torch.func.grad(loss)(several.detach()), expected, rtol=1e-10, atol=1e-12)


def test_runs_with_parameters_of_another_type_in_the_place_of_its_own() -> None:
    """torch's check of types reads a list of weights that has to follow."""
    layer, other = fnn.GRU(3, 4, reset="before"), fnn.GRU(3, 4, reset="before", dtype=torch.float64)
    x = draw(5, 2, 3)
    made = torch.func.functional_call(layer, dict(other.named_parameters()), (x,))[0]
    torch.testing.assert_close(made, other(x)[0])


# Torch's forward mode imports decompositions that use torch.jit.script.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning")
@with_and_without_graph
def test_a_tangent_passes(graph: bool) -> None:
    layer = fnn.GRU(3, 4, reset="before", dtype=torch.float64)
    x, direction = draw(5, 2, 3), draw(5, 2, 3, seed=1)
    _, expected = torch.autograd.functional.jvp(lambda x: layer(x)[0], x, direction)
    with forward_ad.dual_level(), torch.set_grad_enabled(graph):
        tangent = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))[0]).tangent
    torch.testing.assert_close(tangent, expected, rtol=1e-10, atol=1e-12)


def test_in_inference_mode_and_frozen_it_makes_no_graph() -> None:
    layer, x = fnn.GRU(3, 4, reset="before"), torch.randn(5, 2, 3)
    expected = layer(x)[0]
    with torch.inference_mode():
        torch.testing.assert_close(layer(x)[0], expected)
    layer.requires_grad_(False)
    assert not layer(x)[0].requires_grad
    torch.testing.assert_close(layer(x)[0], expected)
    assert layer(x, torch.zeros(1, 2, 4, requires_grad=True))[0].requires_grad
    assert layer(x.requires_grad_())[0].requires_grad


def test_a_forward_without_a_graph_runs_the_cell_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = fnn.GRU(3, 4, reset="before"), torch.randn(5, 2, 3)
    monkeypatch.setattr("feedalign.nn.unrolled", None)
    monkeypatch.setattr("feedalign.recurrent.gru_reset_before.unrolled", None)
    with torch.no_grad():
        layer(x)
    with pytest.raises(TypeError, match="not callable"):
        layer(x)
