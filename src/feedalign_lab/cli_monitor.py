"""The command `feedalign monitor`: a table and a picture of what a Monitor wrote."""

import math
from pathlib import Path

from rich.markup import escape
from rich.table import Table

import feedalign as fa
from feedalign.measure import MonitorRecord
from feedalign.measure.monitor_records import FILE_NAME
from feedalign_lab.cli_output import print_table
from feedalign_lab.errors import OutputFolderError, SettingError, UnknownNameError
from feedalign_lab.monitor_plot import QUANTITIES, Curves, curves_of, draw_monitor
from feedalign_lab.options import MonitorOptions
from feedalign_lab.results import ResultsFolder

_ENDING = ".png"
_NOTHING = "-"
_MOST_COLUMNS = 7


def show_monitor(options: MonitorOptions) -> int:
    """Print the latest numbers of a file of records, and draw them all.

    Args:
        options: Of the command.

    Returns:
        The exit status, 0.

    Raises:
        MonitorError: There is no such file, or it is none of a Monitor.
        UnknownNameError: A quantity does not exist.
        SettingError: The file has no records, or nothing of what is to be shown.
        OutputFolderError: The picture is there already, or cannot be written.
    """
    quantities = _quantities(options.quantities)
    records = fa.measure.read_records(options.file)
    if not records:
        raise SettingError(f"{options.file} has no records yet: the first is written when a measured step ends.")
    path = _picture(options)
    found = curves_of(records)
    curves = {name: found[name] for name in quantities if name in found}
    if not curves:
        raise SettingError(
            f"{options.file} has no numbers of {', '.join(quantities)}; --quantities all shows what it has."
        )
    folder = ResultsFolder.open(path.parent, overwrite=False, goes_on=True, advice="name another file with --out")
    title = _title(options.file, records)
    written = folder.write_bytes(path.name, draw_monitor(records, curves, title))
    print(title)
    by_layer = [name for name in curves if _is_by_layer(name)]
    for start in range(0, len(by_layer), _MOST_COLUMNS):
        print_table(_table(records[-1], by_layer[start : start + _MOST_COLUMNS]))
    print(*_beside(records[-1], curves), sep="\n", end="")
    if options.quantities != "all" and len(curves) < len(quantities):
        print(f"no numbers of: {', '.join(name for name in quantities if name not in curves)}")
    num_left_out = _num_lines(options.file) - len(records)
    if num_left_out > 0:
        lines = f"{num_left_out} line{'s' if num_left_out > 1 else ''} of the file"
        print(f"not shown: {lines}, damaged, or of a training that a later one in this folder took the place of")
    print(f"wrote {written}")
    return 0


def _num_lines(path: Path) -> int:
    """Lines with something in them."""
    content = (path / FILE_NAME if path.is_dir() else path).read_bytes()
    return sum(bool(line.strip()) for line in content.split(b"\n"))


def _quantities(text: str) -> list[str]:
    """Names, each once."""
    names = list(QUANTITIES) if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in QUANTITIES:
            raise UnknownNameError("quantity", name, [*QUANTITIES, "all"])
    if not names:
        raise SettingError(f"--quantities names none; give some of {', '.join(QUANTITIES)}, or all.")
    return list(dict.fromkeys(names))


def _picture(options: MonitorOptions) -> Path:
    """Where the picture goes, which is free or may be written over."""
    file = options.file
    path = options.out or (file / "monitor.png" if file.is_dir() else file.with_name(f"{file.stem}{_ENDING}"))
    if path.suffix.lower() != _ENDING:
        raise SettingError(f"--out {path}: the picture is a PNG; give a name that ends in {_ENDING}.")
    if path.exists() and not options.overwrite:
        raise OutputFolderError(f"{path} is there already: name another with --out, or give --overwrite.")
    return path


def _title(file: Path, records: list[MonitorRecord]) -> str:
    last = records[-1]
    count = f"{len(records)} record{'s' if len(records) > 1 else ''}"
    return f"{file}: {last.rule or 'no rule'}, {count} to step {last.step}"


def _table(record: MonitorRecord, quantities: list[str]) -> Table:
    """The latest numbers, a row for each layer."""
    table = Table()
    for heading in ("layer", "point"):
        table.add_column(heading)
    for name in quantities:
        # Broken where the screen is narrow, not cut.
        table.add_column(name.replace("_", "\n"), justify="right", overflow="fold")
    for row in record.layers:
        cells = [_cell(name, getattr(row, name)) for name in quantities]
        table.add_row(escape(row.layer or "(model)"), escape(row.point or _NOTHING), *cells)
    return table


def _beside(record: MonitorRecord, curves: dict[str, Curves]) -> list[str]:
    """The latest numbers that are of no layer, a line each; an empty one ends the last."""
    latest = {tag.partition("/")[0]: (tag, value) for tag, value in record.scalars()}
    told = [latest.get(name, (name, None)) for name in curves if not _is_by_layer(name)]
    return [*(f"{tag}: {_cell(tag, value)}" for tag, value in told), ""]


def _is_by_layer(quantity: str) -> bool:
    return quantity in fa.measure.MonitorLayer.__dataclass_fields__


def _cell(quantity: str, value: float | None) -> str:
    if value is None:
        return _NOTHING
    if not math.isfinite(value):
        return str(value)
    return f"{value:.1f}" if "angle" in quantity else f"{value:.3g}"
