"""The handle of an attached rule: describe it, give it targets, take it away again."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from feedalign.circuit import Circuit
from feedalign.delivery import held_by
from feedalign.describe import Description
from feedalign.errors import AttachError, StreamingError, TargetsError
from feedalign.receivers import DirectReceiver
from feedalign.recurrent.batch import as_lengths
from feedalign.recurrent.point import LayerSteps
from feedalign.removable import Removable
from feedalign.rules.base import LearnedRule, Rule
from feedalign.store import CHILD_NAME, FeedbackStore
from feedalign.streaming import Stream
from feedalign.tangents import DualCarrier
from feedalign.transforms import forget_compiled_code

ATTACHED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Models with a rule attached in this process; copies of them are not listed."""

# Points fire in the forward; that says nothing of what the loss is made of.
_UNANSWERED = (
    "no error has come back since the last forward, so it has taught no feedback point: call backward() first, on a "
    "loss of the output where the error is taken"
)


class Handle:
    """What `attach` returns. Also a context manager that removes the rule at its end.

    Args:
        circuit: The running part.
        rules: The attached rules, in order.
        host: The module that holds the store.
        hooks: All hooks that were set.
        num_outputs: C.
        description: What teaches each layer, as found at attach time.
        fires: For each row of the description, the module that must fire; None where none must.
        points: The point at which each layer's signal can be read, by the layer's name.
        last_pair: The feedback point right below the linear layer that makes the output, and this layer, if any.
    """

    def __init__(
        self,
        circuit: Circuit,
        rules: tuple[Rule, ...],
        host: nn.Module,
        hooks: list[Removable],
        num_outputs: int,
        description: Description,
        fires: tuple[str | None, ...],
        points: dict[str, str],
        last_pair: tuple[str, str] | None,
    ) -> None:
        self._circuit, self.rules, self._host, self._hooks = circuit, rules, host, hooks
        self._num_outputs, self._description, self._fires = num_outputs, description, fires
        self.points, self.last_pair = points, last_pair
        modules = dict(circuit.model.named_modules())
        self._is_recurrent = any(isinstance(modules[site.module], LayerSteps) for site in circuit.sites)
        self._attached = True
        ATTACHED.add(circuit.model)

    @property
    def model(self) -> nn.Module:
        """The attached model."""
        return self._circuit.model

    @property
    def store(self) -> FeedbackStore:
        """The child module that holds the feedback."""
        return self._circuit.store

    @property
    def is_streaming(self) -> bool:
        """Whether the next forward makes gradients as it goes, from targets."""
        return self._circuit.stream is not None

    def describe(self) -> Description:
        """Tell what teaches each layer.

        Returns:
            A description; `str()` of it is a table of layer, feedback point, signal, feedback shape and draw, and
            whether the point fired in the last forward, with notes on paths that no point cuts. After `remove()`
            it has no rows.
        """
        if not self._attached:
            return Description("no rule (it was removed)", self._description.output, (), ())
        fired = self._circuit.fired
        if fired is None:
            return self._description
        rows = [
            replace(row, fired=module in fired if module else row.fired)
            for row, module in zip(self._description.rows, self._fires, strict=True)
        ]
        notes = self._description.notes
        if self._circuit.is_unanswered:
            notes = (*notes, f"{_UNANSWERED} ({self._description.output})")
        return replace(self._description, rows=tuple(rows), notes=notes)

    @property
    def uses_dual_tensors(self) -> bool:
        """Whether tangents travel as dual tensors, which cannot be compiled, instead of being carried by hand."""
        perturber = self._circuit.perturber
        return perturber is not None and isinstance(perturber.carrier, DualCarrier)

    def is_gated(self, layer: str) -> bool:
        """Whether a layer's input gradient is made with layer-wise feedback."""
        return layer in self._circuit.gated

    def forget_forward(self) -> None:
        """Forget that a forward has run, for `describe()`."""
        self._circuit.fired = None

    def parameter_groups(
        self,
        *,
        lr: float | None = None,
        feedback_lr: float | None = None,
        weight_decay: float | None = None,
        feedback_decay: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return parameter groups for any torch optimizer, the model's apart from the learned feedback.

            optimizer = torch.optim.Adam(handle.parameter_groups(lr=1e-3, feedback_lr=1e-4))

        What is left out is the optimizer's own default. Heads of local losses have exact gradients and count as the
        model's. Frozen parameters are left out.

        Args:
            lr: Learning rate of the model's parameters.
            feedback_lr: Learning rate of learned feedback matrices.
            weight_decay: Weight decay of the model's parameters.
            feedback_decay: Weight decay of learned feedback matrices.

        Returns:
            One group, or two where a rule learns feedback matrices.

        Raises:
            AttachError: `feedback_lr` or `feedback_decay` is given, and no rule has feedback for an optimizer; or the
                rule was removed.
        """
        self._refuse_removed()
        learned = {id(p) for p in self._learned_matrices()}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [_group([p for p in trained if id(p) not in learned], lr, weight_decay)]
        if learned:
            groups.append(_group([p for p in trained if id(p) in learned], feedback_lr, feedback_decay))
        elif feedback_lr is not None or feedback_decay is not None:
            names = ", ".join(repr(rule) for rule in self.rules)
            raise AttachError(
                f"{names} has no feedback that an optimizer trains; leave feedback_lr and feedback_decay out."
            )
        return groups

    def feedback_at(self, point: str) -> Tensor | None:
        """Return the matrix of a feedback point, `[C, D]`, detached; None where it has none."""
        for site in self._circuit.sites:
            if site.label == point and isinstance(site.receiver, DirectReceiver):
                held = held_by(self.store, site)
                return site.receiver.own(held[0].detach()) if held else None
        return None

    def _learned_matrices(self) -> list[nn.Parameter]:
        keys = {site.key for site in self._circuit.sites if isinstance(site.rule, LearnedRule)}
        return [p for key, p in self.store.named_parameters() if key in keys]

    def targets(self, targets: Tensor | None, *, scale: float | Tensor | None = None) -> None:
        """Give the targets of the coming forward: its hidden layers then learn while it runs (streaming).

        Call it before every training forward, and `optimizer.zero_grad()` before the forward too. Evaluation
        under `torch.no_grad()` needs no targets.

        Args:
            targets: Class indices of an integer dtype, `[N]` or one per position, or zeros and ones `[..., C]` of a
                floating dtype. None: go back to learning from the error.
            scale: What the loss multiplies each sample's error with: one number or one per target. None: one over the
                number of targets, right for a cross-entropy averaged over them. A binary cross-entropy averaged over C
                outputs too: `1 / (N * C)`; with a GradScaler: `scaler.get_scale() / N`; a weighted loss: the weights
                over N.

        Raises:
            TargetsError: No attached rule streams, or the targets are of the wrong type or shape or outside the
                classes.
            StreamingError: The model's graph cannot be freed layer by layer.
        """
        self._refuse_removed()
        if not any(site.streams for site in self._circuit.sites):
            names = ", ".join(type(rule).__name__ for rule in self.rules)
            raise TargetsError(f"{names} learns from the error and takes no targets; only DRTP streams.")
        if targets is None:
            self._circuit.stream = None
            return
        if not self._circuit.can_stream:
            raise StreamingError(
                "Two signals of this model share a part of its graph (points on one activation, or a skip connection "
                "that no point cuts; see handle.describe()), so that no layer's graph can be freed in the forward. "
                "Let the rule learn from the error (handle.targets(None)), or choose other points with points=."
            )
        stream = self._circuit.stream or Stream(self._num_outputs)
        stream.give(targets, scale)
        self._circuit.stream = stream

    def lengths(self, lengths: Tensor) -> None:
        """Say how long the padded sequences of the coming forward are: padding then teaches recurrent layers nothing.

        Call it before every training forward whose sequences are padded to one length; packed sequences
        (`torch.nn.utils.rnn.pack_padded_sequence`) need it not, they know their lengths. The forward itself stays as
        it is: a last state is that of the last step, padding or not.

        Args:
            lengths: Integers `[N]`, or a mask `[N, T]`, True where a step counts.

        Raises:
            SequenceError: They are no such tensor; or the model has no recurrent layers that the rule teaches.
        """
        self._refuse_removed()
        self._circuit.coming_lengths = as_lengths(lengths, self._is_recurrent)

    @contextmanager
    def from_error(self) -> Iterator[None]:
        """Return a context in which a streaming rule learns from the error again, and no error is late."""
        stream, self._circuit.stream = self._circuit.stream, None
        try:
            with self._circuit.nothing_late():
                yield
        finally:
            self._circuit.stream = stream

    def suspended(self) -> AbstractContextManager[None]:
        """Return a context in which the model runs as if no rule were attached: exact backprop, for comparison."""
        return self._circuit.suspended()

    def remove(self) -> None:
        """Make the model the plain one again: the very same parameters, the same state_dict keys. Twice is once."""
        if not self._attached:
            return
        for hook in self._hooks:
            hook.remove()
        if self._host._modules.get(CHILD_NAME) is self.store:
            delattr(self._host, CHILD_NAME)
        self._attached = False
        ATTACHED.discard(self.model)
        forget_compiled_code()

    def _refuse_removed(self) -> None:
        if not self._attached:
            raise AttachError("The rule was removed from this model; attach it again.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _group(parameters: list[nn.Parameter], lr: float | None, weight_decay: float | None) -> dict[str, Any]:
    options = {"lr": lr, "weight_decay": weight_decay}
    return {"params": parameters} | {name: value for name, value in options.items() if value is not None}


def handle_of(model: nn.Module) -> Handle:
    """Return the handle of an attached model, e.g. of a deep copy or of one loaded whole.

    Args:
        model: The model.

    Returns:
        Its handle.

    Raises:
        AttachError: No rule is attached to it.
    """
    if not isinstance(model, nn.Module):
        raise AttachError(f"The model is {type(model).__name__}; give the attached torch.nn.Module.")
    for module in model.modules():
        if isinstance(module, FeedbackStore):
            return module.handle
    raise AttachError("No rule is attached to this model; fa.attach(model, rule, example_inputs=...) attaches one.")
