"""The table of a search, for people."""

from rich.table import Table

from feedalign_lab.task import Metric
from feedalign_lab.tuning import Candidate, Grid, GridSearch

_NOTHING = "-"


def tuning_table(search: GridSearch) -> Table:
    """Scores on the validation part: a row per rule, network, batch size, decay and dropout, a column per rate.

    Args:
        search: A search, finished or not.

    Returns:
        The table, to be printed by rich.
    """
    plan = search.plans[0]
    epochs = f"{plan.schedule.epochs} epoch{'' if plan.schedule.epochs == 1 else 's'}"
    ending = " (interrupted: figures so far)" if search.status == "interrupted" else ""
    what = "score" if search.metric is None else search.metric.name
    table = Table(
        title=f"{plan.data}, {epochs}: {what} on the validation part, over the learning rates{ending}",
        caption="; ".join(_best_sentence(search, rule) for rule in search.rules),
    )
    for heading in ("rule", "network"):
        table.add_column(heading, no_wrap=True)
    varied = _varied(search.grid)
    for heading in ("batch", *varied, *(f"{rate:g}" for rate in search.grid.rates)):
        table.add_column(heading, justify="right")
    tried = {(*_row_of(one), one.learning_rate): one for one in search.candidates}
    for rule in search.rules:
        rows = [_row_of(one) for one in search.candidates if one.rule == rule]
        for row in dict.fromkeys(rows):
            cells = [_score_of(tried.get((*row, rate)), search.metric) for rate in search.grid.rates]
            _, network, size, decay, dropout = row
            shown = {"decay": f"{decay:g}", "dropout": f"{dropout:g}"}
            table.add_row(rule, network, _size(size), *(shown[what] for what in varied), *cells)
    return table


def _varied(grid: Grid) -> tuple[str, ...]:
    """What is searched beside the rate, as headings."""
    return tuple(what for what, values in (("decay", grid.weight_decays), ("dropout", grid.dropouts)) if values)


def _row_of(one: Candidate) -> tuple[str, str, int | None, float, float]:
    """What tells a row of the table from others."""
    return one.rule, one.network, one.batch_size, one.weight_decay, one.dropout


def _size(batch_size: int | None) -> str:
    """A batch size in words."""
    return "all" if batch_size is None else str(batch_size)


def _best_sentence(search: GridSearch, rule: str) -> str:
    """The best candidate of a rule."""
    best = search.best(rule)
    if best is None:
        return f"{rule}: none finished"
    values = {"decay": best.weight_decay, "dropout": best.dropout}
    more = "".join(f", {what} {values[what]:g}" for what in _varied(search.grid))
    size = _size(best.batch_size)
    return f"best for {rule}: {best.network}, batch size {size}, rate {best.learning_rate:g}{more}"


def _score_of(candidate: Candidate | None, metric: Metric | None) -> str:
    """The mean score of a candidate."""
    if candidate is None or metric is None:
        return _NOTHING
    return "diverged" if candidate.score is None else f"{candidate.score.mean:.{metric.digits}f}"
