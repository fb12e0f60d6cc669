"""Pushforwards of the normalizations, through the statistics of the source where the call has used those.

With the statistics of the source, `y = weight * (x - mean) / std + bias` has the derivative `weight * P dx / std`,
where P takes out of `dx` its mean and its part along the normalized source. P is symmetric, so torch's backward
kernels make it, without a weight where that is not constant over what is normalized together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from feedalign.pushforward.directions import Pushforward, one_by_one

_aten = torch.ops.aten
_INPUT_ONLY = (True, False, False)


def uses_batch_statistics(module: _NormBase) -> bool:
    """Whether a batch or instance normalization, in its present mode, normalizes with its source's statistics."""
    return module.training or (module.running_mean is None and module.running_var is None)


def _channelwise(factor: Tensor, like: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (like.dim() - 2))


def _statistics(source: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std of each channel."""
    if source.device.type == "cpu" and not torch.compiler.is_compiling():
        # The kernel of batch_norm's own forward: several times as fast there as var_mean over these dimensions.
        mean, variance = torch.batch_norm_update_stats(source, None, None, 0.0)
    else:
        dims = [dim for dim in range(source.dim()) if dim != 1]
        variance, mean = torch.var_mean(source, dims, correction=0)
    return mean, (variance + eps).rsqrt()


def _through_statistics(source: Tensor, weight: Tensor | None, eps: float) -> Callable[[Tensor], Tensor]:
    mean, rstd = _statistics(source, eps)
    return lambda dx: _aten.native_batch_norm_backward(
        dx, source, weight, None, None, mean, rstd, True, eps, _INPUT_ONLY
    )[0]


def _running_scale(module: Any, source: Tensor) -> Tensor:
    scale: Tensor = (module.running_var + module.eps).rsqrt()
    return _channelwise(scale if module.weight is None else scale * module.weight, source)


def _batch_norm(module: Any, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    return _through_statistics(source, module.weight, module.eps)


def _instance_norm(module: Any, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    """Batch normalization in which each sample's channels are channels of their own."""
    unbatched = source.dim() == module._get_no_batch_dim()
    num_samples = 1 if unbatched else source.shape[0]
    weight = None if module.weight is None else module.weight.repeat(num_samples)
    num_spatial = module._get_no_batch_dim() - 1
    planes = source.reshape(1, -1, *source.shape[-num_spatial:])
    step = _through_statistics(planes, weight, module.eps)
    return lambda dx: step(dx.reshape(planes.shape)).view(source.shape)


_BATCH_NORM_IN_TRAINING = one_by_one(_batch_norm)
_INSTANCE_NORM_IN_TRAINING = one_by_one(_instance_norm)


def _push_batch_norm(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
    if uses_batch_statistics(module):
        return _BATCH_NORM_IN_TRAINING(module, source, output, tangent)
    return tangent * _running_scale(module, source)


def _push_instance_norm(module: Any, source: Tensor, output: Tensor, tangent: Tensor) -> Tensor:
    if module.training or not module.track_running_stats:
        return _INSTANCE_NORM_IN_TRAINING(module, source, output, tangent)
    return tangent * _running_scale(module, source)


def _layer_norm(module: Any, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    shape, weight = module.normalized_shape, module.weight
    # Its output is not wanted, but without a weight its kernel is slower.
    _, mean, rstd = torch.native_layer_norm(source, shape, weight, module.bias, module.eps)

    def step(dx: Tensor) -> Tensor:
        pushed: Tensor = _aten.native_layer_norm_backward(dx, source, shape, mean, rstd, None, None, _INPUT_ONLY)[0]
        return pushed if weight is None else pushed.mul_(weight)

    return step


def _group_norm(module: Any, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    groups, weight = module.num_groups, module.weight
    sizes = (*source.shape[:2], source[0, 0].numel())
    source = source.contiguous()
    _, mean, rstd = _aten.native_group_norm(source, None, None, *sizes, groups, module.eps)

    def step(dx: Tensor) -> Tensor:
        pushed: Tensor = _aten.native_group_norm_backward(
            dx.contiguous(), source, mean, rstd, None, *sizes, groups, _INPUT_ONLY
        )[0]
        return pushed if weight is None else pushed.mul_(_channelwise(weight, source))

    return step


def _rms_norm(module: Any, source: Tensor, _output: Tensor) -> Callable[[Tensor], Tensor]:
    dims = list(range(-len(module.normalized_shape), 0))
    eps = torch.finfo(source.dtype).eps if module.eps is None else module.eps
    rms = (source.square().mean(dims, keepdim=True) + eps).rsqrt()
    normalized, weight = source * rms, module.weight

    def step(dx: Tensor) -> Tensor:
        along = (normalized * dx).mean(dims, keepdim=True)
        pushed = torch.addcmul(dx, normalized, along, value=-1).mul_(rms)
        return pushed if weight is None else pushed.mul_(weight)

    return step


NORMALIZATIONS: dict[type[nn.Module], Pushforward] = {
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _push_batch_norm),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _push_instance_norm),
    nn.LayerNorm: one_by_one(_layer_norm),
    nn.GroupNorm: one_by_one(_group_norm),
    nn.RMSNorm: one_by_one(_rms_norm),
}
"""The normalizations. SyncBatchNorm is not among them: its statistics are those of all processes."""
