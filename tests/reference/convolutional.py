"""conv1 - tanh - max pooling - conv2 - tanh - mean pooling - fc, by explicit sums; stride 1, pooling 2 x 2."""

from typing import NamedTuple

import torch
from torch import Tensor


class ConvNet(NamedTuple):
    """Kernels `[out, in, k, k]`, their zero padding, and the output layer `[C, D]`."""

    kernels: list[Tensor]
    biases: list[Tensor]
    paddings: list[int]
    out_weight: Tensor
    out_bias: Tensor


class ConvPass(NamedTuple):
    """For both convolutions: input, activation after tanh, and for the first the mask of the largest in each window."""

    inputs: list[Tensor]
    activations: list[Tensor]
    largest: Tensor
    flat: Tensor
    output: Tensor


def pad(x: Tensor, width: int) -> Tensor:
    padded = x.new_zeros(*x.shape[:2], x.shape[2] + 2 * width, x.shape[3] + 2 * width)
    padded[:, :, width : width + x.shape[2], width : width + x.shape[3]] = x
    return padded


def convolve(x: Tensor, kernel: Tensor, bias: Tensor, padding: int) -> Tensor:
    padded, size = pad(x, padding), kernel.shape[-1]
    height, width = padded.shape[2] - size + 1, padded.shape[3] - size + 1
    total = bias[None, :, None, None].expand(x.shape[0], -1, height, width).clone()
    for i in range(size):
        for j in range(size):
            window = padded[:, :, i : i + height, j : j + width]
            total += torch.einsum("nchw,oc->nohw", window, kernel[:, :, i, j])
    return total


def kernel_gradient(delta: Tensor, x: Tensor, size: int, padding: int) -> Tensor:
    padded = pad(x, padding)
    gradient = delta.new_zeros(delta.shape[1], x.shape[1], size, size)
    for i in range(size):
        for j in range(size):
            window = padded[:, :, i : i + delta.shape[2], j : j + delta.shape[3]]
            gradient[:, :, i, j] = torch.einsum("nohw,nchw->oc", delta, window)
    return gradient


def input_gradient(delta: Tensor, backward_kernel: Tensor, input_shape: torch.Size, padding: int) -> Tensor:
    gradient = pad(delta.new_zeros(input_shape), padding)
    size = backward_kernel.shape[-1]
    for i in range(size):
        for j in range(size):
            back = torch.einsum("nohw,oc->nchw", delta, backward_kernel[:, :, i, j])
            gradient[:, :, i : i + delta.shape[2], j : j + delta.shape[3]] += back
    return gradient[:, :, padding : padding + input_shape[2], padding : padding + input_shape[3]]


def windows(x: Tensor) -> Tensor:
    """`[n, c, h/2, w/2, 2, 2]`."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(3, 4)


def unwindow(x: Tensor) -> Tensor:
    n, c, h, w, _, _ = x.shape
    return x.transpose(3, 4).reshape(n, c, 2 * h, 2 * w)


def forward(net: ConvNet, x: Tensor) -> ConvPass:
    h1 = torch.tanh(convolve(x, net.kernels[0], net.biases[0], net.paddings[0]))
    pooled = windows(h1).amax((-1, -2))
    largest = (windows(h1) == pooled[..., None, None]).double()
    h2 = torch.tanh(convolve(pooled, net.kernels[1], net.biases[1], net.paddings[1]))
    flat = windows(h2).mean((-1, -2)).flatten(1)
    return ConvPass([x, pooled], [h1, h2], largest, flat, flat @ net.out_weight.T + net.out_bias)


def gradients(net: ConvNet, passed: ConvPass, error: Tensor, signals: list[Tensor]) -> dict[str, Tensor]:
    """Gradients of every parameter from signals at the outputs of both tanh, before the pooling."""
    found = {"fc.weight": error.T @ passed.flat, "fc.bias": error.sum(0)}
    for layer, signal in enumerate(signals):
        delta = signal * (1 - passed.activations[layer] ** 2)
        size = net.kernels[layer].shape[-1]
        found[f"conv{layer + 1}.weight"] = kernel_gradient(delta, passed.inputs[layer], size, net.paddings[layer])
        found[f"conv{layer + 1}.bias"] = delta.sum((0, 2, 3))
    return found


def signals_layer_by_layer(
    net: ConvNet, passed: ConvPass, error: Tensor, backward_kernel: Tensor, backward_out: Tensor
) -> list[Tensor]:
    """FA with `R_conv2` and `R_fc`; backprop with the forward's own weights."""
    h2 = passed.activations[1]
    pooled = (error @ backward_out).reshape(h2.shape[0], h2.shape[1], h2.shape[2] // 2, h2.shape[3] // 2)
    second = unwindow(pooled[..., None, None].expand(*pooled.shape, 2, 2) / 4)
    delta = second * (1 - h2**2)
    back = input_gradient(delta, backward_kernel, passed.inputs[1].shape, net.paddings[1])
    return [unwindow(back[..., None, None] * passed.largest), second]


def direct_signals(passed: ConvPass, error: Tensor, feedback: list[Tensor]) -> list[Tensor]:
    """DFA: `E B_l` with B_l `[C, c*h*w]`, in the shape of the activation before the pooling."""
    return [(error @ matrix).reshape(h.shape) for matrix, h in zip(feedback, passed.activations, strict=True)]


def tangent_at_output(net: ConvNet, passed: ConvPass, directions: list[Tensor]) -> Tensor:
    """Directional derivative `[N, C]` of the output along directions added to both activations."""
    pooled = (windows(directions[0]) * passed.largest).sum((-1, -2))
    convolved = convolve(pooled, net.kernels[1], torch.zeros_like(net.biases[1]), net.paddings[1])
    second = convolved * (1 - passed.activations[1] ** 2) + directions[1]
    return windows(second).mean((-1, -2)).flatten(1) @ net.out_weight.T
