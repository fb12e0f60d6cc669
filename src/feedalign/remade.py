"""Models that a trainer will throw away: a rule on one of them would train nothing."""

from __future__ import annotations

import gc
import sys
from typing import Any

from torch import nn

from feedalign.errors import AttachError


def refuse_remade(model: nn.Module) -> None:
    """Raise if a `transformers.Trainer` made a model with `model_init`, since its `train()` makes another one.

    Args:
        model: The model.

    Raises:
        AttachError: A living Trainer holds the model and has a `model_init`.
    """
    modeling, training = (sys.modules.get(f"transformers.{name}") for name in ("modeling_utils", "trainer"))
    base, trainer = getattr(modeling, "PreTrainedModel", None), getattr(training, "Trainer", None)
    # Asking who holds an object looks at all objects, so only models of Transformers are asked about.
    if base is None or trainer is None or not isinstance(model, base):
        return
    for holder in gc.get_referrers(model):
        # Up to Python 3.12 it may be the trainer's __dict__ that holds the model.
        state = vars(holder) if isinstance(holder, trainer) else holder
        if isinstance(state, dict) and _is_state_of_trainer(state) and state["model"] is model:
            raise AttachError(
                f"This {type(model).__name__} was made by the model_init of a transformers Trainer, whose train() "
                "makes another one, without the rule. Attach inside model_init, before it returns the model; or give "
                "the Trainer model= in place of model_init=."
            )


def _is_state_of_trainer(state: dict[str, Any]) -> bool:
    """Whether a dict holds the attributes of a Trainer with a model_init, and not a script's own variables."""
    return {"model", "model_wrapped", "callback_handler"} <= state.keys() and state.get("model_init") is not None
