"""`torch.export` and ONNX: after `remove()` a trained model exports as any other does."""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from attach.models import (
    NUM_CLASSES,
    Convolutional,
    Functional,
    FunctionalActivations,
    Perceptron,
    Regularised,
    Residual,
    Seeded,
    images,
)
from integration.gradients import attached
from integration.plain_loop import BATCH_SIZE, RULES, train, x

pytestmark = [
    # The exporters' own copies of the trees that torch keeps inputs in.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # Of every nn.GRU, with or without a rule.
    pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn._flat_weights"),
]

NUM_STEPS = 3


class Recurrent(Seeded):
    """Its nn.GRU runs step by step while a rule is attached."""

    def build(self) -> None:
        self.rnn, self.head = nn.GRU(2, 6, batch_first=True), nn.Linear(6, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rnn(inputs)[0][:, -1])


class Attending(Seeded):
    """A layer of a Transformer, with its points where functional activations are not seen."""

    def build(self) -> None:
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation=nn.GELU())
        self.stem, self.point, self.head = nn.Linear(2, 8), fa.FeedbackPoint(), nn.Linear(8, NUM_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.point(self.layer(self.stem(inputs))).mean(1))


sequences = torch.linspace(-1, 1, 24 * 7 * 2).reshape(24, 7, 2)
pictures = images(24)[0]
MODELS = [(Perceptron, x), (FunctionalActivations, x), (Regularised, x), (Residual, x), (Convolutional, pictures)]
MODELS += [(Recurrent, sequences), (Attending, sequences)]

each_rule = pytest.mark.parametrize("rule", [*RULES, fa.BRSF(), fa.WeightPerturbed()], ids=repr)
each_model = pytest.mark.parametrize(("make", "inputs"), MODELS, ids=lambda one: getattr(one, "__name__", ""))


def trained(make: Callable[[], nn.Module], rule: fa.Rule, inputs: Tensor) -> nn.Module:
    """An attached model that has learned for a few steps, in evaluation mode."""
    model = attached(make, rule, inputs[:BATCH_SIZE])
    labels = torch.arange(len(inputs)) % NUM_CLASSES
    batches = list(zip(inputs.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True))[:NUM_STEPS]
    train(model, batches)
    return model.eval()


def removed(model: nn.Module) -> nn.Module:
    fa.handle_of(model).remove()
    return model


def outputs_of_onnx(path: Path, inputs: Tensor) -> Tensor:
    """What onnxruntime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return torch.from_numpy(output)


def assert_exports_as(model: nn.Module, plain: nn.Module, inputs: Tensor) -> None:
    """The same operations, parameters and outputs as those of a model that never had a rule."""
    found, wanted = (torch.export.export(one, (inputs,)) for one in (model, plain))
    assert found.state_dict.keys() == wanted.state_dict.keys()
    assert [str(node.target) for node in found.graph.nodes] == [str(node.target) for node in wanted.graph.nodes]
    file = io.BytesIO()
    torch.export.save(found, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        torch.testing.assert_close(loaded(inputs), plain(inputs), rtol=1e-6, atol=1e-6)


@each_rule
def test_a_removed_rule_leaves_nothing_in_the_exported_program(rule: fa.Rule) -> None:
    model = removed(trained(Perceptron, rule, x))
    plain = Perceptron(7).eval()
    plain.load_state_dict(model.state_dict())
    assert_exports_as(model, plain, x)


@each_model
def test_every_kind_of_model_exports_as_if_it_never_had_a_rule(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    model = removed(trained(make, fa.DFA(), inputs))
    plain = make().eval()
    assert not torch.equal(model(inputs), plain(inputs))
    plain.load_state_dict(model.state_dict())
    assert_exports_as(model, plain, inputs)


@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size other than 1")  # for recurrent layers
@pytest.mark.parametrize(("make", "inputs"), [MODELS[0], *MODELS[-3:]], ids=lambda one: getattr(one, "__name__", ""))
def test_onnxruntime_gives_the_models_outputs(make: Callable[[], nn.Module], inputs: Tensor, tmp_path: Path) -> None:
    model = removed(trained(make, fa.DFA(), inputs))
    torch.onnx.export(model, (inputs,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    with torch.no_grad():
        torch.testing.assert_close(
            outputs_of_onnx(tmp_path / "model.onnx", inputs), model(inputs), rtol=1e-5, atol=1e-5
        )


@each_rule
@pytest.mark.parametrize("make", [Perceptron, Functional])
def test_a_forgotten_rule_is_refused(make: Callable[[], nn.Module], rule: fa.Rule) -> None:
    model = trained(make, rule, x)
    with pytest.raises(fa.errors.ExportError, match=r"handle\.remove\(\).*torch\.no_grad\(\)"):
        torch.export.export(model, (x,))
    removed(model)
    torch.export.export(model, (x,))


def test_a_forgotten_rule_is_refused_by_the_exporters_that_wrap_the_error(tmp_path: Path) -> None:
    model = trained(Perceptron, fa.DFA(), x)
    with pytest.raises(torch.onnx.OnnxExporterError, match=r"ExportError.*handle\.remove\(\)"):
        torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
    with pytest.raises(RuntimeError) as caught:
        torch.export.export(model, (x,), strict=True)
    assert "handle.remove()" in str(caught.value.__cause__)
    with (
        pytest.warns(DeprecationWarning, match="torch.jit.trace"),
        pytest.raises(fa.errors.ExportError, match=r"handle\.remove\(\)"),
    ):
        torch.jit.trace(model, x)


@each_rule
@pytest.mark.parametrize("strict", [True, False])
def test_without_gradients_the_rule_stands_aside_and_stays_on(rule: fa.Rule, strict: bool, tmp_path: Path) -> None:
    model = trained(Perceptron, rule, x)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        program = torch.export.export(model, (x,), strict=strict)
        expected = model(x)
        torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=0)
    plain = torch.export.export(removed(copy.deepcopy(model)), (x,), strict=strict)
    assert operations(program) == operations(plain)
    model.train()
    twin.train()
    for mine, wanted in zip(train(model).gradients, train(twin).gradients, strict=True):
        assert all(torch.equal(mine[name], wanted[name]) for name in wanted)


def operations(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_onnx_without_gradients_holds_no_feedback(tmp_path: Path) -> None:
    model = trained(Perceptron, fa.DFA(), x)
    with torch.no_grad():
        torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False)
        torch.testing.assert_close(outputs_of_onnx(tmp_path / "model.onnx", x), model(x), rtol=1e-5, atol=1e-5)
    held = {tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert held == set(Perceptron().state_dict())
