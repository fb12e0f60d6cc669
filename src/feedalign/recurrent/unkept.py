"""The output of a layer that kept nothing of its sequence but the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_SELECT = torch.ops.aten.select.int


class UnkeptOutput(Tensor):
    """Output sequence of a streaming layer, of which only the last step was kept.

    Its last step costs nothing; at any other use the layer runs again, so that the values are right, and then memory
    grows with the sequence as ever.

    Args:
        last: States of the last step, `[N, H]`.
        num_steps: T.
        batch_first: Layout, `[N, T, H]` or `[T, N, H]`.
        run_again: Returns the whole sequence in this layout.
    """

    last: Tensor
    run_again: Callable[[], Tensor]
    time: int

    @staticmethod
    def __new__(cls, last: Tensor, num_steps: int, batch_first: bool, run_again: Callable[[], Tensor]) -> UnkeptOutput:
        """Make a tensor without storage."""
        shape = list(last.shape)
        shape.insert(1 if batch_first else 0, num_steps)
        made: UnkeptOutput = Tensor._make_wrapper_subclass(cls, shape, dtype=last.dtype, device=last.device)
        made.last, made.run_again, made.time = last, run_again, 1 if batch_first else 0
        return made

    def tolist(self) -> list[Any]:
        """Run the layer again and list its output."""
        return self.run_again().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Run the layer again and return its output as an array."""
        return self.run_again().numpy(force=force)

    # Operations see plain tensors only, so that nothing of this kind comes out of them.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer for the last step; run the layer again for anything else."""
        del types
        first = args[0] if args else None
        if func is _SELECT and isinstance(first, cls):
            dim = args[1] % first.dim()
            if dim == first.time and args[2] in {-1, first.shape[dim] - 1}:
                return first.last.clone()
        if func is torch.ops.aten.detach.default and isinstance(first, cls):
            return cls(first.last, first.shape[first.time], first.time == 1, first.run_again)
        args, kwargs = tree_map(_whole, args), tree_map(_whole, kwargs or {})
        return func(*args, **kwargs)


def _whole(value: object) -> object:
    # Contiguous, as the stand-in says it is: what to do with strides was settled by those.
    return value.run_again().contiguous() if isinstance(value, UnkeptOutput) else value
