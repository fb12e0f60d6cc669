"""torch's fused recurrent operations, called on rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from feedalign.recurrent.cell import Weights
from feedalign.recurrent.steps import Steps

Operation = Callable[..., tuple[Tensor, ...]]


def run_fused(
    operation: Operation, inputs: Tensor, states: Tensor | Sequence[Tensor], weights: Sequence[Weights], steps: Steps
) -> tuple[Tensor, ...]:
    """Run one layer by one of torch's operations.

    Args:
        operation: That of `torch._VF`.
        inputs: `[R, I]`.
        states: As the operation takes them.
        weights: One or two directions.
        steps: How rows lie.

    Returns:
        The output `[R, D * H]` and the last states.
    """
    has_bias = weights[0].bias_ih is not None
    params = [parameter for direction in weights for parameter in direction if parameter is not None]
    options = (params, has_bias, 1, 0.0, False, len(weights) == 2)
    if not steps.is_even:
        return tuple(operation(inputs, steps.sizes(), states, *options))
    shape = (steps.num_steps, steps.num_samples)
    output, *final = operation(inputs.reshape(*shape, -1), states, *options, False)
    return output.flatten(0, 1), *final
