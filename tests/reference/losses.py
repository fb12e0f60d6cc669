"""Error at the output, `E = dL/dA_L`, of three losses: `E[n] = s[n] * (prediction[n] - target[n])`."""

import torch
from torch import Tensor


def one_hot(labels: Tensor, num_classes: int) -> Tensor:
    """Targets `[N, C]` of zeros and ones."""
    return (labels[:, None] == torch.arange(num_classes)[None, :]).double()


def softmax(output: Tensor) -> Tensor:
    powers = torch.exp(output - output.amax(1, keepdim=True))
    return powers / powers.sum(1, keepdim=True)


def sigmoid(output: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-output))


def sample_scale(loss: str, reduction: str, num_samples: int, num_outputs: int) -> float:
    """The factor `s` of every sample: 1/N of a mean; a mean over outputs too divides by C as well."""
    if reduction == "sum":
        return 1.0
    return 1 / num_samples if loss == "cross_entropy" else 1 / (num_samples * num_outputs)


def error_at_output(loss: str, output: Tensor, targets: Tensor, scale: float | Tensor) -> Tensor:
    """The error `[N, C]`; `scale` is one number or `[N, 1]`; targets `[N, C]`."""
    if loss == "cross_entropy":
        return scale * (softmax(output) - targets)
    if loss == "binary_cross_entropy":
        return scale * (sigmoid(output) - targets)
    assert loss == "squared_error"
    return scale * 2 * (output - targets)
