"""Pushforwards and own terms, written by hand, against torch's own forward mode."""

import copy
import itertools
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

import feedalign as fa
from feedalign.pushforward import DROPOUTS, own_term_of, pushforward_of
from problems import draw

# Torch's forward mode imports decompositions that use torch.jit.script.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]

N = 3

# At these the activations below have their kinks.
KINKS = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 25.0, -40.0)


class Conv1D(nn.Module):
    """Transformers' linear layer, its weight `[in, out]`."""

    def __init__(self, num_out: int, num_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(num_in, num_out, seed=8))
        self.bias = nn.Parameter(draw(num_out, seed=9))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


Conv1D.__module__ = "transformers.pytorch_utils"


class Narrower(nn.Conv2d):
    """A subclass that keeps its parent's forward."""


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]

ELEMENTWISE: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu-inplace": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "relu6-inplace": lambda: nn.ReLU6(inplace=True),
    "hardtanh": nn.Hardtanh,
    "hardtanh-bounds-inplace": lambda: nn.Hardtanh(-0.5, 3.0, inplace=True),
    "threshold": lambda: nn.Threshold(0.5, -7.0),
    "threshold-up": lambda: nn.Threshold(0.5, 3.0),
    "threshold-inplace": lambda: nn.Threshold(0.5, -7.0, inplace=True),
    "threshold-inplace-to-itself": lambda: nn.Threshold(0.5, 0.5, inplace=True),
    "hardshrink": nn.Hardshrink,
    "hardshrink-wide": lambda: nn.Hardshrink(1.0),
    "softshrink": nn.Softshrink,
    "softshrink-wide": lambda: nn.Softshrink(1.0),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "softsign": nn.Softsign,
    "leaky-relu": nn.LeakyReLU,
    "leaky-relu-negative": lambda: nn.LeakyReLU(-0.3),
    "leaky-relu-inplace": lambda: nn.LeakyReLU(0.2, inplace=True),
    "leaky-relu-zero-inplace": lambda: nn.LeakyReLU(0.0, inplace=True),
    "elu": lambda: nn.ELU(1.3),
    "elu-negative": lambda: nn.ELU(-1.3),
    "elu-inplace": lambda: nn.ELU(1.3, inplace=True),
    "selu": nn.SELU,
    "selu-inplace": lambda: nn.SELU(inplace=True),
    "celu": lambda: nn.CELU(0.5),
    "celu-inplace": lambda: nn.CELU(0.5, inplace=True),
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "logsigmoid": nn.LogSigmoid,
    "hardswish": nn.Hardswish,
    "tanhshrink": nn.Tanhshrink,
    "softplus": nn.Softplus,
    "softplus-options": lambda: nn.Softplus(2.0, 6.0),
    "identity": nn.Identity,
    "feedback-point": fa.FeedbackPoint,
    "prelu": lambda: nn.PReLU(init=0.3),
    "prelu-negative": lambda: nn.PReLU(init=-0.3),
}

ALONG_DIMENSIONS: dict[str, Case] = {
    "prelu-rows": (lambda: nn.PReLU(4), (N, 4)),
    "prelu-planes": (lambda: nn.PReLU(4), (N, 4, 3, 2)),
    "glu": (nn.GLU, (N, 5, 6)),
    "glu-channels": (lambda: nn.GLU(dim=1), (N, 6, 5)),
    "softmax": (lambda: nn.Softmax(dim=-1), (N, 5)),
    "softmax-channels": (lambda: nn.Softmax(dim=1), (N, 5, 4)),
    "softmax-batch": (lambda: nn.Softmax(dim=0), (N, 5)),
    "softmax2d": (nn.Softmax2d, (N, 5, 4, 3)),
    "softmin": (lambda: nn.Softmin(dim=-1), (N, 5)),
    "log-softmax": (lambda: nn.LogSoftmax(dim=-1), (N, 5)),
    "log-softmax-channels": (lambda: nn.LogSoftmax(dim=1), (N, 5, 4)),
}

LINEAR: dict[str, Case] = {
    "linear": (lambda: nn.Linear(5, 4), (N, 5)),
    "linear-without-bias": (lambda: nn.Linear(5, 4, bias=False), (N, 5)),
    "linear-sequence": (lambda: nn.Linear(5, 4), (N, 7, 5)),
    "linear-weight-norm": (lambda: parametrizations.weight_norm(nn.Linear(5, 4)), (N, 5)),
    "linear-orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(5, 4)), (N, 5)),
    "transformers-conv1d": (lambda: Conv1D(4, 5), (N, 7, 5)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (N, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), (N, 3, 6, 5)),
    "conv2d-options": (lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), groups=2, bias=False), (N, 4, 7, 6)),
    "conv2d-same": (lambda: nn.Conv2d(3, 4, (3, 2), padding="same"), (N, 3, 6, 5)),
    "conv2d-valid": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), (N, 3, 6, 5)),
    "conv2d-reflect": (lambda: nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="reflect"), (N, 3, 6, 5)),
    "conv2d-replicate": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"), (N, 3, 6, 5)),
    "conv2d-circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (N, 3, 6, 5)),
    "conv2d-same-circular": (lambda: nn.Conv2d(3, 4, 2, padding="same", padding_mode="circular"), (N, 3, 6, 5)),
    "conv2d-subclass": (lambda: Narrower(3, 4, 3), (N, 3, 6, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, padding=1, groups=2), (N, 2, 4, 3, 5)),
    "conv-transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2), (N, 4, 5)),
    "conv-transpose2d": (lambda: nn.ConvTranspose2d(3, 4, 3, (2, 3), 1, (1, 2), bias=False), (N, 3, 4, 5)),
    "conv-transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, dilation=2), (N, 2, 3, 2, 3)),
    "avg-pool1d": (lambda: nn.AvgPool1d(3, 2, 1), (N, 2, 7)),
    "avg-pool2d": (lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (N, 2, 7, 6)),
    "avg-pool3d": (lambda: nn.AvgPool3d(2, divisor_override=3), (N, 2, 4, 5, 4)),
    "adaptive-avg-pool1d": (lambda: nn.AdaptiveAvgPool1d(3), (N, 2, 7)),
    "adaptive-avg-pool2d": (lambda: nn.AdaptiveAvgPool2d((1, None)), (N, 2, 5, 7)),
    "adaptive-avg-pool3d": (lambda: nn.AdaptiveAvgPool3d(2), (N, 2, 5, 4, 3)),
    "zero-pad1d": (lambda: nn.ZeroPad1d(2), (N, 2, 5)),
    "zero-pad2d": (lambda: nn.ZeroPad2d((1, 2, 0, -1)), (N, 2, 5, 4)),
    "zero-pad3d": (lambda: nn.ZeroPad3d(1), (N, 2, 3, 2, 3)),
    "constant-pad1d": (lambda: nn.ConstantPad1d(1, 3.5), (N, 2, 5)),
    "constant-pad2d": (lambda: nn.ConstantPad2d((1, 2, 0, 1), 3.5), (N, 2, 5, 4)),
    "constant-pad3d": (lambda: nn.ConstantPad3d(1, 3.5), (N, 2, 3, 2, 3)),
    "reflection-pad1d": (lambda: nn.ReflectionPad1d((1, 2)), (N, 2, 5)),
    "reflection-pad2d": (lambda: nn.ReflectionPad2d(2), (N, 2, 5, 4)),
    "reflection-pad3d": (lambda: nn.ReflectionPad3d(1), (N, 2, 3, 2, 3)),
    "replication-pad1d": (lambda: nn.ReplicationPad1d(1), (N, 2, 5)),
    "replication-pad2d": (lambda: nn.ReplicationPad2d(2), (N, 2, 5, 4)),
    "replication-pad3d": (lambda: nn.ReplicationPad3d(1), (N, 2, 3, 2, 3)),
    "circular-pad1d": (lambda: nn.CircularPad1d((2, 1)), (N, 2, 5)),
    "circular-pad2d": (lambda: nn.CircularPad2d(2), (N, 2, 5, 4)),
    "circular-pad3d": (lambda: nn.CircularPad3d(1), (N, 2, 3, 2, 3)),
    "upsample-nearest": (lambda: nn.Upsample(scale_factor=2), (N, 2, 3, 4)),
    "upsample-linear": (lambda: nn.Upsample(scale_factor=1.5, mode="linear"), (N, 2, 4)),
    "upsample-bilinear": (lambda: nn.Upsample((5, 7), mode="bilinear", align_corners=True), (N, 2, 3, 4)),
    "upsample-bicubic": (lambda: nn.Upsample(scale_factor=2, mode="bicubic"), (N, 2, 3, 4)),
    "upsample-trilinear": (lambda: nn.Upsample(scale_factor=2, mode="trilinear"), (N, 2, 3, 2, 2)),
    "upsampling-nearest2d": (lambda: nn.UpsamplingNearest2d(scale_factor=2), (N, 2, 3, 4)),
    "upsampling-bilinear2d": (lambda: nn.UpsamplingBilinear2d((5, 4)), (N, 2, 3, 4)),
    "pixel-shuffle": (lambda: nn.PixelShuffle(2), (N, 8, 3, 2)),
    "pixel-unshuffle": (lambda: nn.PixelUnshuffle(2), (N, 2, 4, 6)),
    "channel-shuffle": (lambda: nn.ChannelShuffle(2), (N, 4, 3, 2)),
    "flatten": (nn.Flatten, (N, 4, 3, 2)),
    "flatten-middle": (lambda: nn.Flatten(1, -2), (N, 4, 3, 2)),
    "flatten-batch": (lambda: nn.Flatten(0, 1), (N, 4, 3)),
    "unflatten": (lambda: nn.Unflatten(1, (2, -1)), (N, 6, 3)),
    "unflatten-batch": (lambda: nn.Unflatten(0, (3, 2)), (6, 4)),
    "unfold": (lambda: nn.Unfold(2), (N, 2, 4, 3)),
    "fold": (lambda: nn.Fold((4, 3), 2), (N, 8, 6)),
}

MAX_POOLING: dict[str, Case] = {
    "max-pool1d": (lambda: nn.MaxPool1d(3, 2, 1), (N, 2, 9)),
    "max-pool2d": (lambda: nn.MaxPool2d(2), (N, 2, 6, 5)),
    "max-pool1d-many": (lambda: nn.MaxPool1d(2, 3, padding=1, dilation=3, ceil_mode=True), (N, 7, 9)),
    "max-pool2d-many": (lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), (N, 7, 6, 5)),
    "max-pool3d-many": (lambda: nn.MaxPool3d(2), (N, 7, 4, 5, 3)),
    "adaptive-max-pool2d-many": (lambda: nn.AdaptiveMaxPool2d(2), (N, 7, 5, 4)),
    "max-pool2d-options": (lambda: nn.MaxPool2d((3, 2), (2, 1), 1, 2, ceil_mode=True), (N, 2, 9, 8)),
    "max-pool3d": (lambda: nn.MaxPool3d(2, ceil_mode=True), (N, 2, 3, 4, 5)),
    "adaptive-max-pool1d": (lambda: nn.AdaptiveMaxPool1d(3), (N, 2, 7)),
    "adaptive-max-pool2d": (lambda: nn.AdaptiveMaxPool2d((2, None)), (N, 2, 5, 4)),
    "adaptive-max-pool3d": (lambda: nn.AdaptiveMaxPool3d(2), (N, 2, 5, 4, 3)),
}

NORMALIZATION: dict[str, Case] = {
    "batch-norm1d-rows": (lambda: nn.BatchNorm1d(4), (N, 4)),
    "batch-norm1d": (lambda: nn.BatchNorm1d(4, momentum=None), (N, 4, 5)),
    "batch-norm2d": (lambda: nn.BatchNorm2d(4, eps=0.1), (N, 4, 3, 2)),
    "batch-norm2d-plain": (lambda: nn.BatchNorm2d(4, affine=False), (N, 4, 3, 2)),
    "batch-norm2d-untracked": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (N, 4, 3, 2)),
    "batch-norm2d-without-bias": (lambda: nn.BatchNorm2d(4, bias=False), (N, 4, 3, 2)),
    "batch-norm3d": (lambda: nn.BatchNorm3d(4), (N, 4, 3, 2, 2)),
    "instance-norm1d": (lambda: nn.InstanceNorm1d(4), (N, 4, 5)),
    "instance-norm2d": (lambda: nn.InstanceNorm2d(4, affine=True), (N, 4, 3, 2)),
    "instance-norm2d-tracked": (lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (N, 4, 3, 2)),
    "instance-norm3d": (lambda: nn.InstanceNorm3d(4, eps=0.1), (N, 4, 3, 2, 2)),
    "layer-norm": (lambda: nn.LayerNorm(5), (N, 7, 5)),
    "layer-norm-planes": (lambda: nn.LayerNorm((3, 2), eps=0.1, bias=False), (N, 4, 3, 2)),
    "layer-norm-plain": (lambda: nn.LayerNorm(5, elementwise_affine=False), (N, 5)),
    "group-norm": (lambda: nn.GroupNorm(2, 4), (N, 4, 3, 2)),
    "group-norm-plain": (lambda: nn.GroupNorm(4, 4, affine=False), (N, 4, 5)),
    "group-norm-rows": (lambda: nn.GroupNorm(1, 4, eps=0.1), (N, 4)),
    "rms-norm": (lambda: nn.RMSNorm(5), (N, 7, 5)),
    "rms-norm-planes": (lambda: nn.RMSNorm((3, 2), eps=0.1, elementwise_affine=False), (N, 4, 3, 2)),
}

CASES: dict[str, Case] = {
    **{name: (make, (N, 4, len(KINKS))) for name, make in ELEMENTWISE.items()},
    **ALONG_DIMENSIONS,
    **LINEAR,
    **MAX_POOLING,
    **NORMALIZATION,
}


def settled(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module whose parameters and running statistics are none of their usual starting values."""
    torch.manual_seed(0)  # the orthogonal parametrization draws a base
    module = make().to(dtype)
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(draw(*parameter.shape, seed=20 + number))
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                buffer.copy_(draw(*buffer.shape, seed=30))
            elif name == "running_var":
                buffer.copy_(draw(*buffer.shape, seed=31).square() + 0.3)
    return module


def source_of(shape: tuple[int, ...]) -> Tensor:
    """Random numbers; the first row of an activation's input holds the kinks."""
    source = 2 * draw(*shape, seed=1)
    if shape[-1] == len(KINKS):
        source[0, 0] = torch.tensor(KINKS)
    return source


def along(function: Callable[[Tensor], Tensor], point: Tensor, tangent: Tensor) -> Tensor:
    """Torch's directional derivative. (`torch.func.jvp` would refuse functions that move buffers.)"""
    with forward_ad.dual_level():
        pushed: Tensor | None = forward_ad.unpack_dual(function(forward_ad.make_dual(point, tangent))).tangent
    assert pushed is not None
    return pushed


def by_torch(module: nn.Module, source: Tensor, tangent: Tensor) -> Tensor:
    """One direction, by dual tensors; the module's buffers and source are copies."""
    module = copy.deepcopy(module)
    return along(lambda x: module(x.clone()), source, tangent)


def by_hand(module: nn.Module, source: Tensor, tangent: Tensor) -> Tensor:
    """The pushforward, called as after the module's own call, which may have written over its source."""
    push = pushforward_of(module)
    assert push is not None
    with torch.no_grad():
        source = source.clone()  # keeps strides
        output = module(source)
        return push(module, source, output, tangent)


def assert_exact(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.detach().abs().max()) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=1e-12 * max(scale, 1e-3))


@pytest.mark.parametrize(("training", "num_directions"), [(True, 3), (False, 1)], ids=["train", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_a_pushforward_is_torchs_directional_derivative(name: str, training: bool, num_directions: int) -> None:
    make, shape = CASES[name]
    module = settled(make).train(training)
    source, tangent = source_of(shape), draw(num_directions * shape[0], *shape[1:], seed=2)
    expected = torch.cat([by_torch(module, source, part) for part in tangent.split(shape[0])])
    assert_exact(by_hand(module, source, tangent), expected)


@pytest.mark.parametrize("num_directions", [1, 3])
@pytest.mark.parametrize("name", MAX_POOLING)
def test_among_equal_maxima_torchs_own_choice_moves(name: str, num_directions: int) -> None:
    make, shape = MAX_POOLING[name]
    module = make()
    source, tangent = source_of(shape).relu().ceil(), draw(num_directions * shape[0], *shape[1:], seed=2)
    expected = torch.cat([by_torch(module, source, part) for part in tangent.split(shape[0])])
    assert_exact(by_hand(module, source, tangent), expected)


@pytest.mark.parametrize("name", CASES)
def test_strides_do_not_matter(name: str) -> None:
    make, shape = CASES[name]
    module = settled(make)
    source, tangent = source_of(shape), draw(2 * shape[0], *shape[1:], seed=2)
    expected = by_hand(module, source, tangent)
    for one, other in itertools.combinations(range(source.dim()), 2):
        turned = [x.transpose(one, other).contiguous().transpose(one, other) for x in (source, tangent)]
        for pair in (turned, [source, turned[1]], [turned[0], tangent]):
            found = by_hand(module, *pair)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_pushforward_leaves_everything_else_as_it_was(name: str) -> None:
    make, shape = CASES[name]
    module = settled(make)
    with torch.no_grad():
        source, tangent = source_of(shape), draw(2 * shape[0], *shape[1:], seed=2)
        output = module(source)
        push = pushforward_of(module)
        assert push is not None
        watched = [source, output, tangent, *module.state_dict().values()]
        before, random_state = [x.clone() for x in watched], torch.get_rng_state()
        push(module, source, output, tangent)
    torch.testing.assert_close(watched, before, rtol=0, atol=0)
    torch.testing.assert_close(torch.get_rng_state(), random_state, rtol=0, atol=0)


@pytest.mark.parametrize("name", CASES)
def test_single_precision_stays_single(name: str) -> None:
    make, shape = CASES[name]
    source, tangent = source_of(shape), draw(2 * shape[0], *shape[1:], seed=2)
    found = by_hand(settled(make, torch.float32), source.float(), tangent.float())
    assert found.dtype == torch.float32
    expected = by_hand(settled(make), source, tangent)
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["relu", "conv2d", "batch-norm2d", "max-pool2d", "linear", "layer-norm", "flatten"])
def test_an_empty_batch(name: str) -> None:
    make, shape = CASES[name]
    module = settled(make).eval()
    source = torch.zeros(0, *shape[1:], dtype=torch.float64)
    assert by_hand(module, source, source.clone()).shape == module(source).shape


# Unbatched sources, one direction.
UNBATCHED: dict[str, Case] = {
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    "conv-transpose2d": (lambda: nn.ConvTranspose2d(3, 4, 3, 2), (3, 4, 5)),
    "max-pool2d": (lambda: nn.MaxPool2d(2), (2, 6, 5)),
    "instance-norm2d": (lambda: nn.InstanceNorm2d(4), (4, 6, 5)),
    "prelu": (lambda: nn.PReLU(), (5,)),
    "linear": (lambda: nn.Linear(5, 4), (5,)),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_a_source_without_a_batch_dimension(name: str) -> None:
    make, shape = UNBATCHED[name]
    module = settled(make)
    source, tangent = source_of(shape), draw(*shape, seed=2)
    assert_exact(by_hand(module, source, tangent), by_torch(module, source, tangent))


def test_the_size_asked_of_a_transposed_convolution_is_read_off_its_output() -> None:
    module = settled(lambda: nn.ConvTranspose2d(3, 4, 3, stride=3))
    source, tangent = draw(N, 3, 4, 5, seed=1), draw(N, 3, 4, 5, seed=2)
    push = pushforward_of(module)
    assert push is not None
    for size in ([12, 15], [13, 16], [14, 17]):
        expected = along(lambda x, size=size: module(x, output_size=size), source, tangent)
        with torch.no_grad():
            assert_exact(push(module, source, module(source, output_size=size), tangent), expected)


def test_rrelu_is_known_only_when_it_draws_nothing() -> None:
    module = nn.RReLU(0.1, 0.4)
    assert pushforward_of(module) is None
    for inplace in (False, True):
        module = nn.RReLU(0.1, 0.4, inplace=inplace).eval()
        source, tangent = source_of((N, 4, len(KINKS))), draw(N, 4, len(KINKS), seed=2)
        assert_exact(by_hand(module, source, tangent), by_torch(nn.LeakyReLU(0.25), source, tangent))


@pytest.mark.parametrize("inplace", [False, True])
def test_celu_is_exact_where_torchs_derivative_has_alpha_in_single_precision(inplace: bool) -> None:
    source, tangent = source_of((N, 4, len(KINKS))), draw(N, 4, len(KINKS), seed=2)
    slope = torch.where(source > 0, 1, (source / 0.7).exp())
    assert_exact(by_hand(nn.CELU(0.7, inplace=inplace), source, tangent), slope * tangent)


def test_alpha_dropout_is_known_only_when_it_draws_nothing() -> None:
    for module in (nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5)):
        assert pushforward_of(module) is None
        tangent = draw(N, 4, 5, seed=2)
        assert_exact(by_hand(module.eval(), draw(N, 4, 5, seed=1), tangent), tangent)


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Squared(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight, bias).square()


class Noisy(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + torch.randn_like(weight)


def with_forward_replaced() -> nn.Module:
    module = nn.Linear(3, 2)
    vars(module)["forward"] = lambda x: 2 * nn.Linear.forward(module, x)
    return module


def noisy() -> nn.Module:
    module = nn.Linear(3, 2)
    parametrize.register_parametrization(module, "weight", Noisy())
    return module


UNKNOWN: dict[str, Callable[[], nn.Module]] = {
    "another-forward": lambda: Doubled(3, 2),
    "another-convolution": lambda: Squared(3, 2, 2),
    "forward-replaced": with_forward_replaced,
    "silu-inplace": lambda: nn.SiLU(inplace=True),
    "mish-inplace": lambda: nn.Mish(inplace=True),
    "hardswish-inplace": lambda: nn.Hardswish(inplace=True),
    "hardsigmoid-inplace": lambda: nn.Hardsigmoid(inplace=True),
    "threshold-up-inplace": lambda: nn.Threshold(0.5, 3.0, inplace=True),
    "leaky-relu-negative-inplace": lambda: nn.LeakyReLU(-0.1, inplace=True),
    "elu-negative-inplace": lambda: nn.ELU(-1.0, inplace=True),
    "celu-negative-inplace": lambda: nn.CELU(-1.0, inplace=True),
    "softmax-without-dim": nn.Softmax,
    "log-softmax-without-dim": nn.LogSoftmax,
    "max-pool-indices": lambda: nn.MaxPool2d(2, return_indices=True),
    "adaptive-max-pool-indices": lambda: nn.AdaptiveMaxPool2d(2, return_indices=True),
    "sync-batch-norm": lambda: nn.SyncBatchNorm(3),
    "spectral-norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
    "noisy-weight": noisy,
    "lstm": lambda: nn.LSTM(3, 2),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "embedding": lambda: nn.Embedding(3, 2),
    "sequential": lambda: nn.Sequential(nn.ReLU()),
    **{kind.__name__: kind for kind in DROPOUTS},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_modules_that_are_not_known_are_refused(name: str) -> None:
    assert pushforward_of(UNKNOWN[name]()) is None


def chain(*, inplace: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 8),
        nn.ReLU(inplace),
        nn.Linear(8, 8),
        nn.LeakyReLU(0.2, inplace),
        nn.BatchNorm1d(8),
        nn.ELU(0.8, inplace),
        nn.LayerNorm(8),
        nn.Hardtanh(-1, 0.5, inplace),
        nn.Softmax(-1),
        nn.SELU(inplace),
        nn.Sigmoid(),
        nn.ReLU6(inplace),
        nn.Linear(8, 3),
    ).double()


def carried(model: nn.Sequential, source: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """Push a tangent through a chain, each step right after the module's own call."""
    for module in model:
        output = module(source)
        push = pushforward_of(module)
        assert push is not None
        tangent = push(module, source, output, tangent)
        source = output
    return source, tangent


def test_in_place_activations_in_a_chain() -> None:
    model, in_place = chain(inplace=False), chain(inplace=True)
    in_place.load_state_dict(model.state_dict())
    source, tangent = draw(6, 5, seed=1), draw(6, 5, seed=2)
    expected = by_torch(model, source, tangent)
    with torch.no_grad():
        assert_exact(carried(in_place, source.clone(), tangent)[1], expected)


def test_a_chain_compiles_whole() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 5),
    ).double()
    source, tangent = draw(4, 3, 6, 6, seed=1), draw(8, 3, 6, 6, seed=2)
    with torch.no_grad():
        expected = carried(model, source, tangent)
        torch._dynamo.reset()
        compiled = torch.compile(carried, fullgraph=True, backend="aot_eager")
        found = compiled(model, source, tangent)
    for one, other in zip(found, expected, strict=True):
        assert_exact(one, other)


def test_every_pushforward_compiles_whole() -> None:
    modules = [settled(make) for make, _ in CASES.values()]
    sources = [source_of(shape) for _, shape in CASES.values()]
    tangents = [draw(2 * shape[0], *shape[1:], seed=2) for _, shape in CASES.values()]
    with torch.no_grad():
        outputs = [module(source) for module, source in zip(modules, sources, strict=True)]

        def push_all(sources: list[Tensor], outputs: list[Tensor], tangents: list[Tensor]) -> list[Tensor]:
            pushes = [pushforward_of(module) for module in modules]
            assert all(pushes)
            return [
                push(*call) for push, *call in zip(pushes, modules, sources, outputs, tangents, strict=True) if push
            ]

        expected = push_all(sources, outputs, tangents)
        torch._dynamo.reset()
        found = torch.compile(push_all, fullgraph=True, backend="aot_eager")(sources, outputs, tangents)
    for one, other in zip(found, expected, strict=True):
        assert_exact(one, other)


OWN_CASES: dict[str, Case] = {
    name: CASES[name]
    for name in (
        "linear",
        "linear-sequence",
        "linear-without-bias",
        "transformers-conv1d",
        "conv1d",
        "conv2d",
        "conv2d-options",
        "conv2d-same",
        "conv2d-reflect",
        "conv2d-same-circular",
        "conv3d",
        "batch-norm1d-rows",
        "batch-norm1d",
        "batch-norm2d",
        "batch-norm2d-untracked",
        "batch-norm2d-without-bias",
        "batch-norm3d",
        "layer-norm",
        "layer-norm-planes",
        "group-norm",
        "group-norm-rows",
        "prelu",
        "prelu-rows",
        "prelu-planes",
    )
}


def changed_by_torch(module: nn.Module, source: Tensor, directions: Mapping[str, Tensor]) -> Tensor:
    """The tangent of a change of parameters, by dual tensors."""
    state = {name: x.detach().clone() for name, x in module.state_dict(keep_vars=True).items()}
    with forward_ad.dual_level():
        for name, direction in directions.items():
            state[name] = forward_ad.make_dual(state[name], direction)
        changed: Tensor | None = forward_ad.unpack_dual(functional_call(module, state, (source,))).tangent
    assert changed is not None
    return changed


def changed_by_hand(module: nn.Module, source: Tensor, directions: Mapping[str, Tensor]) -> Tensor:
    term = own_term_of(module)
    assert term is not None
    with torch.no_grad():
        return term(module, source, copy.deepcopy(module)(source), directions)


def subsets(module: nn.Module) -> list[list[str]]:
    names = [name for name, _ in module.named_parameters()]
    return [names[:1], names[1:], names] if len(names) > 1 else [names]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", OWN_CASES)
def test_an_own_term_is_torchs_derivative_along_the_parameters(name: str, training: bool) -> None:
    make, shape = OWN_CASES[name]
    module, source = settled(make).train(training), source_of(shape)
    before = copy.deepcopy(module.state_dict())
    for names in subsets(module):
        directions = {key: draw(*module.get_parameter(key).shape, seed=5) for key in names}
        found = changed_by_hand(module, source, directions)
        assert_exact(found, changed_by_torch(module, source, directions))
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", OWN_CASES)
def test_an_own_term_with_one_direction_per_sample(name: str, training: bool) -> None:
    make, shape = OWN_CASES[name]
    module, source = settled(make).train(training), source_of(shape)
    for names in subsets(module):
        for per_sample in itertools.product([True, False], repeat=len(names)):
            each = dict(zip(names, per_sample, strict=True))
            directions = {key: draw(*[shape[0]] * each[key], *module.get_parameter(key).shape, seed=5) for key in names}
            expected = [
                changed_by_torch(module, source, {k: d[i] if each[k] else d for k, d in directions.items()})[i]
                for i in range(shape[0])
            ]
            assert_exact(changed_by_hand(module, source, directions), torch.stack(expected))


@pytest.mark.parametrize("shape", [(4,), (4, 6)], ids=str)
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_the_own_term_of_an_embedding(padding_idx: int | None, shape: tuple[int, ...]) -> None:
    module = settled(lambda: nn.Embedding(5, 3, padding_idx))
    source = torch.randint(5, shape, generator=torch.Generator().manual_seed(1))
    directions = draw(4, 5, 3, seed=5)
    moved = directions.clone()
    if padding_idx is not None:
        moved[:, padding_idx] = 0
    shared = changed_by_torch(module, source, {"weight": moved[0]})
    assert_exact(changed_by_hand(module, source, {"weight": directions[0]}), shared)
    each = [changed_by_torch(module, source, {"weight": moved[i]})[i] for i in range(4)]
    assert_exact(changed_by_hand(module, source, {"weight": directions}), torch.stack(each))


def test_own_terms_compile_whole() -> None:
    model = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU(4), nn.GroupNorm(2, 4)]).double()

    def terms(source: Tensor, per_sample: bool) -> list[Tensor]:
        found = []
        for module in model:
            output = module(source)
            lead = [source.shape[0]] * per_sample
            directions = {name: torch.ones(*lead, *p.shape).double() for name, p in module.named_parameters()}
            term = own_term_of(module)
            assert term is not None
            found.append(term(module, source, output, directions))
            source = output
        return found

    source = draw(4, 3, 6, 6, seed=1)
    for per_sample in (False, True):
        with torch.no_grad():
            expected = terms(source, per_sample)
            torch._dynamo.reset()
            found = torch.compile(terms, fullgraph=True, backend="aot_eager")(source, per_sample)
        for one, other in zip(found, expected, strict=True):
            assert_exact(one, other)


WITHOUT_OWN_TERM: dict[str, Callable[[], nn.Module]] = {
    "another-forward": lambda: Doubled(3, 2),
    "forward-replaced": with_forward_replaced,
    "weight-norm": lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
    "embedding-by-frequency": lambda: nn.Embedding(3, 2, scale_grad_by_freq=True),
    "relu": nn.ReLU,
    "lstm": lambda: nn.LSTM(3, 2),
    "sync-batch-norm": lambda: nn.SyncBatchNorm(3),
}


@pytest.mark.parametrize("name", WITHOUT_OWN_TERM)
def test_own_terms_that_are_not_known_are_refused(name: str) -> None:
    assert own_term_of(WITHOUT_OWN_TERM[name]()) is None
