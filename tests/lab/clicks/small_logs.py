"""Small logs that tests write: Criteo's format and CSV, whole or damaged."""

from collections.abc import Sequence
from pathlib import Path

from feedalign_lab.clicks.planted import write_planted


def criteo_file(folder: Path, num_rows: int = 400) -> Path:
    """A planted log as a file."""
    path = folder / "log.txt"
    write_planted(path, num_rows)
    return path


def damaged(path: Path, line: int, text: str) -> Path:
    """Put other text in the place of a line, counted from 1."""
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_text("".join(lines))
    return path


def csv_file(path: Path, rows: Sequence[str], header: str = "age,city,label") -> Path:
    """A CSV file."""
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def people(count: int = 60) -> list[str]:
    """Rows of age, city and label."""
    return [f"{20 + n % 40},{['Ulm', 'Bonn', 'Trier'][n % 3]},{int(n % 4 == 0)}" for n in range(count)]
