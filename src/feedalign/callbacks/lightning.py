"""A Monitor as a callback of Lightning's Trainer. Importing this module imports lightning."""

from __future__ import annotations

from typing import Any

import lightning

from feedalign.callbacks.monitored import Monitored


class MonitorCallback(Monitored, lightning.Callback):
    """Records what the rule does while Lightning's Trainer runs; see `fa.measure.Monitor`.

    For example::

        from feedalign.callbacks.lightning import MonitorCallback

        trainer = lightning.Trainer(callbacks=[MonitorCallback(every=100, folder="runs/1")])

    A step is an optimizer step, numbered as the Trainer's `global_step` will be when it is done. Of a step that
    accumulates several batches the first is measured: one forward and its backward. In a run that is resumed from a
    checkpoint (`ckpt_path=`) moving averages go on.

    Args:
        every: As for `fa.measure.Monitor`.
        folder: As there.
        tensorboard: As there. Lightning's own writer: `TensorBoardLogger(...).experiment`.
        momentum: As there.

    Attributes:
        monitor: The Monitor; None before training.
    """

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make the Monitor.

        Args:
            trainer: The trainer.
            pl_module: A module with a rule attached to it or to the network inside.

        Raises:
            AttachError: No rule is attached.
        """
        self._open(pl_module, trainer.global_step)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step."""
        del pl_module, batch, batch_idx
        self._begin(trainer.global_step)

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """End the step."""
        del trainer, pl_module
        self._end()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Take everything off the model."""
        del trainer, pl_module, exception
        self._close()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Close the Monitor; its latest record can still be read."""
        del trainer, pl_module
        self._close()
