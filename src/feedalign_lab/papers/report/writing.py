"""From the folder of the records to the page."""

from collections.abc import Sequence
from pathlib import Path

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.papers.cells import Paper, Table
from feedalign_lab.papers.report.page import PaperPart, page
from feedalign_lab.papers.report.pictures import find_figures
from feedalign_lab.papers.rows import TableRows, read_rows, rows_of
from feedalign_lab.papers.store import Shelf, TrialStore
from feedalign_lab.results import ResultsFolder


def write_report(papers: Sequence[Paper], store: TrialStore, path: Path, figures: Path | None = None) -> Path:
    """Write every table and figure to one page.

    Args:
        papers: The papers.
        store: Where the records are. What cannot be read is named on the page, and does not stop it.
        path: The page; written in one piece over what is there. A link is followed.
        figures: Folder with a folder for each paper, and in it the pictures and their data; None for that of the
            records.

    Returns:
        Path of the page.

    Raises:
        OutputFolderError: The page cannot be written, or what is there is no file.
    """
    target = _target(path)
    parts = []
    for paper in papers:
        tables = tuple(_read(paper, table, store) for table in paper.tables)
        pictures, problems = find_figures((figures or store.folder) / paper.name)
        parts.append(PaperPart(paper, tables, pictures, problems))
    folder = ResultsFolder.open(target.parent, overwrite=True)
    # What no encoding has may stand in a record, and is shown as a question mark.
    folder.write_bytes(target.name, page(parts).encode("utf-8", "replace"))
    return path


def _target(path: Path) -> Path:
    """The file that is written, which must not be a device or a pipe: a page in its place would end it."""
    try:
        target = path.resolve()
        is_other = target.is_symlink() or (target.exists() and not target.is_file())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputFolderError(f"{path} cannot be written ({reason}): name another file with --out.") from error
    if is_other:
        what = "a folder" if target.is_dir() else "no file but a device or the like"
        raise OutputFolderError(f"{path} cannot be written (it is {what}): name another file with --out.")
    return target


def _read(paper: Paper, table: Table, store: TrialStore) -> TableRows:
    """The rows of a table; a file that cannot be opened is a problem of the table."""
    try:
        return read_rows(paper, table, store)
    except OutputFolderError as error:
        return rows_of(paper, table, Shelf(problems=(str(error),)))
