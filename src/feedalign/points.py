"""Where teaching signals enter: the feedback point, and how `points=` selects modules."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from feedalign.errors import AttachError, NoFeedbackPointError

Points = str | type[nn.Module] | Callable[[str, nn.Module], bool] | Sequence[str | type[nn.Module]]


class FeedbackPoint(nn.Module):
    """Identity that marks a place at which a layer receives its teaching signal.

    For forwards that call functional activations: `h = self.point1(torch.tanh(self.fc1(x)))`.
    """

    def forward(self, activation: Tensor) -> Tensor:
        """Return the activation, of any shape, as it is."""
        return activation


RECTIFIERS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardshrink, nn.Softshrink)
"""Activations with slope zero at zero: with zero weights before them nothing ever moves."""

SATURATING: tuple[type[nn.Module], ...] = (
    nn.Tanh,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Softsign,
    nn.ReLU6,
    FeedbackPoint,
)
"""Activations whose slope fades, which DRTP's learning needs; a FeedbackPoint is the user's word for one."""

NONLINEARITIES: tuple[type[nn.Module], ...] = (
    *RECTIFIERS,
    *SATURATING,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.LogSigmoid,
    nn.Hardswish,
    nn.Tanhshrink,
    nn.Softplus,
    nn.GLU,
)
"""Modules that are feedback points by default."""

OUTPUT_LINKS: dict[type[nn.Module], str] = {
    nn.Softmax: "softmax",
    nn.LogSoftmax: "softmax",
    nn.Sigmoid: "sigmoid",
}
"""Last modules that tell which link turns the output into a prediction."""


def is_nonlinearity(module: nn.Module) -> bool:
    """Whether a module is a non-linearity of torch, of Transformers, or a FeedbackPoint."""
    return isinstance(module, NONLINEARITIES) or type(module).__module__ == "transformers.activations"


def makes_predictions(module: nn.Module) -> bool:
    """Whether a module, standing last, turns the output of the last layer into a prediction."""
    return is_nonlinearity(module) or isinstance(module, tuple(OUTPUT_LINKS))


def select(model: nn.Module, points: Points) -> list[str]:
    """Return the names of the modules that `points=` selects, in the model's order.

    Args:
        model: The model.
        points: A name or glob, a type, a predicate `(name, module) -> bool`, or a sequence of names and types.

    Returns:
        Qualified module names.

    Raises:
        AttachError: `points` is none of these.
        NoFeedbackPointError: A name, a type or the predicate selects no module.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    return _layers_for_modules(modules, _select(modules, points))


def _layers_for_modules(modules: dict[str, nn.Module], selected: list[str]) -> list[str]:
    """Put the points of its layers in the place of a recurrent module that has them."""
    layers = {name: [n for n in modules if _is_layer_of(name, n, modules)] for name in selected}
    wanted = {own for name in selected for own in layers[name] or [name]}
    return [name for name in modules if name in wanted]


def _is_layer_of(module: str, name: str, modules: dict[str, nn.Module]) -> bool:
    recurrent = isinstance(modules[module], nn.RNNBase)
    return recurrent and name.rpartition(".")[0] == module and isinstance(modules[name], FeedbackPoint)


def _select(modules: dict[str, nn.Module], points: Points) -> list[str]:
    if callable(points) and not isinstance(points, type):
        chosen = [name for name, module in modules.items() if points(name, module)]
        if not chosen:
            raise NoFeedbackPointError("The predicate given as points= selects no module of the model.")
        return chosen
    wanted: object = [points] if isinstance(points, (str, type)) else points
    if not isinstance(wanted, Collection) or not all(isinstance(item, (str, type)) for item in wanted):
        raise AttachError(
            f"points= is {points!r}; give names or globs, module types, or a predicate (name, module) -> bool."
        )
    if not wanted:
        raise NoFeedbackPointError("points= is empty; leave it out for all non-linearities, or name modules.")
    selected: set[str] = set()
    for item in wanted:
        selected |= _matches(modules, item)
    return [name for name in modules if name in selected]


def named_outright(points: Points) -> set[str]:
    """Return the names that `points=` gives in full, not through a glob, a type or a predicate."""
    items = [points] if isinstance(points, str) else points if isinstance(points, Collection) else []
    return {item for item in items if isinstance(item, str)}


def _matches(modules: dict[str, nn.Module], item: str | type[nn.Module]) -> set[str]:
    if isinstance(item, type):
        found = {name for name, module in modules.items() if isinstance(module, item)}
        if not found:
            raise NoFeedbackPointError(f"points= names the type {item.__name__}, of which the model has no module.")
        return found
    found = {name for name in modules if fnmatchcase(name, item)}
    if not found:
        raise NoFeedbackPointError(f"points= names {item!r}, which no module matches. {near(item, modules)}")
    return found


def near(name: str, known: Iterable[str]) -> str:
    """Return a sentence that lists the known names nearest to a wrong one."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3) or names[:8]
    return f"Near names: {', '.join(close)}." if close else "The model has no named modules."
