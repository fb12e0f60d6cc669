"""Models trained by several processes, each on its own samples: DistributedDataParallel and `fully_shard`.

Torch has no public way to ask a running forward about either; each question is asked in one place, here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from feedalign.errors import CompiledModelError, StreamingError, WrappedModelError
from feedalign.transforms import runs_eagerly

if TYPE_CHECKING:
    from feedalign.receivers import Receiver


_has_processes = torch.distributed.is_available()


def inside_distributed() -> bool:
    """Whether the forward of a DistributedDataParallel model is running."""
    return DistributedDataParallel._get_active_ddp_module() is not None


def refuse_untold(model: nn.Module, silent: Sequence[str]) -> None:
    """Raise if DistributedDataParallel would wait for gradients that a rule never makes.

    Torch notices in the second step; in the first, gradients that share a bucket with the missing ones stay apart.

    Args:
        model: The attached model.
        silent: Names of parameters that no signal reaches.

    Raises:
        WrappedModelError: Some of them are trainable, and the wrapper was not told.
    """
    wrapper = DistributedDataParallel._get_active_ddp_module() if silent else None
    if wrapper is None or wrapper.find_unused_parameters or wrapper.static_graph:
        return
    parameters = dict(model.named_parameters())
    waited_for = [name for name in silent if name in parameters and parameters[name].requires_grad]
    if waited_for:
        raise WrappedModelError(
            f"The rule leaves {', '.join(waited_for[:4])} without gradients, for which DistributedDataParallel waits: "
            "wrap with DistributedDataParallel(model, find_unused_parameters=True), or freeze them before wrapping "
            "with requires_grad_(False)."
        )


def _sharded_class() -> type[nn.Module] | None:
    """The class of modules that `fully_shard` was applied to; None if it was never imported."""
    found: type[nn.Module] | None = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return found


def is_in_pieces(model: nn.Module) -> bool:
    """Whether the parameters of a model, or of a part of it, are spread over processes, by whatever wrapper."""
    return any(map(_is_marked, model.modules())) or any(map(is_distributed_tensor, model.parameters()))


def _is_marked(module: nn.Module) -> bool:
    """Torch marks modules that it gathers parameters for; nothing else tells from inside of the older wrapper."""
    return "_is_fsdp_managed_module" in module.__dict__


def refuse_in_pieces(model: nn.Module) -> None:
    """Raise if a model cannot be measured since no rank has it in full.

    Args:
        model: The attached model.

    Raises:
        WrappedModelError: It is sharded.
    """
    if is_in_pieces(model):
        raise WrappedModelError(
            "The model is sharded, and a measurement needs it in full: load its whole state "
            "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True) into another "
            "model with the same rule attached, and measure there."
        )


def is_distributed_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is spread over processes (a DTensor)."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


def refuse_spread(held: Iterable[Tensor], point: str) -> None:
    """Raise if the learned feedback of a point is not there in full when the output is made.

    Args:
        held: The feedback.
        point: The feedback point.

    Raises:
        WrappedModelError: It is spread over processes.
    """
    if any(map(is_distributed_tensor, held)):
        raise WrappedModelError(
            f"The learned feedback of {point!r} is sharded by a fully_shard whose module does not run, or is over, "
            "when the output is made. Leave the module that holds it, handle.store, to fully_shard(model) of the whole "
            "model, or give the fully_shard around it reshard_after_forward=False."
        )


def refuse_traced(model: nn.Module) -> None:
    """Raise in code that is being compiled if the model is sharded.

    Where graphs may break, Dynamo gives up a frame that is certain to raise and runs it as it is, so that the parts are
    looked for after all.

    Args:
        model: The attached model.

    Raises:
        CompiledModelError: It is sharded.
    """
    if getattr(model, "_is_fsdp_managed_module", False):
        raise CompiledModelError(
            "A model sharded by fully_shard is no single graph, since torch gathers its weights between graphs: leave "
            "fullgraph=True out, or compile its blocks, each on its own."
        )


class Shards:
    """The parts of a model that `fully_shard` was applied to.

    Torch gathers the weights of such a part for the backward when a gradient arrives at what the part returned. Where a
    rule cuts the graph none arrives there: it arrives at the tap.

    Args:
        model: The attached model.
        store: The module that holds its feedback.
    """

    def __init__(self, model: nn.Module, store: nn.Module) -> None:
        self.model, self.store = model, store
        self.parts: list[nn.Module] = []
        self.has_compared = False

    def __getstate__(self) -> dict[str, Any]:
        """A copy looks anew."""
        return {**self.__dict__, "parts": [], "has_compared": False}

    @runs_eagerly
    def look(self) -> None:
        """Look which parts there are; call it where a forward begins, in eager code.

        Raises:
            WrappedModelError: The ranks hold different feedback, or it is another module that is sharded.
        """
        if not _has_processes or not torch.distributed.is_initialized():
            return
        # Under DistributedDataParallel nothing is sharded, and looking takes as long as a forward of small layers.
        modules = () if inside_distributed() else self.model.modules()
        sharded = _sharded_class() or ()
        found = [module for module in modules if isinstance(module, sharded) or _is_marked(module)]
        self.parts = [module for module in found if isinstance(module, sharded)]
        if found and not self.parts:
            raise WrappedModelError(
                "The model is sharded by FullyShardedDataParallel, or as a part of a larger module, where the rule "
                "cannot follow: call torch.distributed.fsdp.fully_shard on the attached model itself."
            )
        if self.parts and not self.has_compared:
            self._refuse_uneven()
            self.has_compared = True

    def refuse(self, *, streams: bool, weights: Sequence[Receiver]) -> None:
        """Raise if a rule cannot work on sharded parts.

        Args:
            streams: Targets were given for this forward.
            weights: Receivers of rules that send parameters something of their own.

        Raises:
            StreamingError: It streams.
            WrappedModelError: It needs parameters in full.
        """
        if self.parts and streams:
            raise StreamingError(
                "Streaming makes gradients inside the forward, before fully_shard averages them over ranks; call "
                "handle.targets(None) and let the rule learn from the error."
            )
        if self.parts and weights:
            raise WrappedModelError(
                f"fa.{type(weights[0].rule).__name__} needs every parameter in full from the beginning of the forward "
                "to its end, and fully_shard gathers each only while its module runs; use DistributedDataParallel."
            )

    @runs_eagerly
    def gather_for(self, tap: Tensor) -> None:
        """Have torch gather the weights of the parts that are running when the tap's gradient arrives."""
        for part in self.parts:
            state = part._get_fsdp_state()  # type: ignore[operator]
            if state._training_state.name == "FORWARD" and tap.requires_grad:
                tap.register_hook(state._pre_backward)

    def mean(self, tensor: Tensor) -> Tensor:
        """Return a tensor's mean over the ranks that train the model; with one process, itself."""
        if torch.compiler.is_compiling():
            return tensor
        groups = self._groups()
        if not groups and inside_distributed():
            groups = [DistributedDataParallel._get_active_ddp_module().process_group]
        for group in groups:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor, group=group)
            tensor = tensor / torch.distributed.get_world_size(group)
        return tensor

    def _groups(self) -> list[Any]:
        """The process groups over which parameters are spread or repeated."""
        for part in self.parts:
            for group in part._get_fsdp_state()._fsdp_param_groups:  # type: ignore[operator]
                found: list[Any] = group.mesh_info.mesh.get_all_groups()
                return found
        return []

    def _refuse_uneven(self) -> None:
        """Buffers are every rank's own: nothing sends them, as DistributedDataParallel does."""
        sums = [_checksum(buffer) for buffer in self.store.buffers()]
        if not sums:
            return
        for group in self._groups():
            lowest, highest = torch.stack(sums), torch.stack(sums)
            torch.distributed.all_reduce(lowest, torch.distributed.ReduceOp.MIN, group)
            torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, group)
            if not torch.equal(lowest, highest):
                raise WrappedModelError(
                    "The ranks hold different feedback, and fully_shard sends no buffers: attach on every rank with "
                    "the same generator (by default the seed is 0) and the same feedback=."
                )


def _checksum(tensor: Tensor) -> Tensor:
    """A number that differs where tensors differ, the same on every kind of device."""
    flat = tensor.detach().flatten()
    bits = flat.double().view(torch.int64) if flat.is_floating_point() else flat.to(torch.int64)
    return (bits * (2 * torch.arange(len(bits), device=bits.device) + 1)).sum()
