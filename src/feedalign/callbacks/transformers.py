"""A Monitor as a callback of the Trainer of transformers. Importing this module imports transformers."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from feedalign.callbacks.monitored import Monitored


class MonitorCallback(Monitored, TrainerCallback):
    """Records what the rule does while a Trainer runs; see `fa.measure.Monitor`.

    For example::

        from feedalign.callbacks.transformers import MonitorCallback

        trainer = Trainer(model=model, args=arguments, callbacks=[MonitorCallback(every=100, folder="runs/1")])

    A step is an optimizer step, numbered as the Trainer's `global_step` will be when it is done. Of a step that
    accumulates several batches the first is measured: one forward and its backward. In a run that is resumed from a
    checkpoint moving averages go on.

    Args:
        every: As for `fa.measure.Monitor`.
        folder: As there.
        tensorboard: As there.
        momentum: As there.

    Attributes:
        monitor: The Monitor; None before training.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Make the Monitor.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            control: What the Trainer is to do next.
            **others: `model`, with a rule attached, and what else the Trainer hands to callbacks.

        Raises:
            AttachError: No rule is attached.
        """
        del args, control
        model: nn.Module = others["model"]
        self._open(model, state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Begin a step."""
        del args, control, others
        self._begin(state.global_step)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """End the step after the first of several batches."""
        self.on_pre_optimizer_step(args, state, control, **others)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """End the step."""
        del args, state, control, others
        self._end()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Close the Monitor; its latest record can still be read."""
        del args, state, control, others
        self._close()
