"""From what a user types as data to an encoded log."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from feedalign_lab.clicks.inference import header_of, infer_schema
from feedalign_lab.clicks.log import ClickLog, Source, encode, key_of
from feedalign_lab.clicks.names import DATA_NAMES, DATA_PREFIXES
from feedalign_lab.clicks.planted import PlantedLog, bayes_auc
from feedalign_lab.clicks.rows import TextFile
from feedalign_lab.clicks.schema import ADULT, CRITEO, Schema
from feedalign_lab.clicks.schema_file import SchemaFile
from feedalign_lab.clicks.splitting import Role, split
from feedalign_lab.clicks.store import PART_NAMES
from feedalign_lab.data.location import Archive, locate
from feedalign_lab.errors import CorruptFileError, MissingDataError, UnknownNameError
from feedalign_lab.task import Tell, silent

_ADULT = Archive(
    "https://archive.ics.uci.edu/static/public/2/adult.zip", None, "ctr/adult", ("adult.data", "adult.test")
)
_SCHEMA_NAME = "schema.toml"
_FILE_ROLES: tuple[tuple[str, Role], ...] = (("train", "train"), ("validation", "validation"), ("test", "test"))
_ENDINGS = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


def load_log(data: str, tell: Tell = silent) -> ClickLog:
    """Read and encode a log.

    Args:
        data: "adult", "planted", "criteo:PATH" or "clicks:PATH". A path is a file, whose rows are split 80 : 10 : 10,
            or a folder with a train, a test and perhaps a validation file; without that, a tenth of the training rows
            validates. A schema for "clicks:" lies beside the file, under its name with the ending .toml, or as
            schema.toml in the folder; without one, it is inferred.
        tell: Told how far it is.

    Returns:
        The log.

    Raises:
        UnknownNameError: There are no such data.
        MissingDataError: There is no such file.
        CorruptFileError: A file is not what its format promises.
        OutputFolderError: The cache cannot be written.
        SettingError: A part has no rows, or none of one class.
    """
    if data == "adult":
        development, test = locate(_ADULT)
        sources = [Source(TextFile(development, ADULT), "development"), Source(TextFile(test, ADULT), "test")]
        return encode(data, sources, ADULT, tell)
    if data == "planted":
        return load_planted(PlantedLog(), tell)
    prefix, colon, path = data.partition(":")
    if prefix + colon not in DATA_PREFIXES or not path:
        raise UnknownNameError("click log", data, (*DATA_NAMES, *(f"{known}PATH" for known in DATA_PREFIXES)))
    files = _files(Path(path).expanduser())
    paths = [file for file, _ in files]
    schema = CRITEO if prefix == "criteo" else _schema(paths, Path(path).expanduser())
    return encode(data, [Source(TextFile(file, schema), role) for file, role in files], schema, tell, key_of(paths))


def load_planted(rows: PlantedLog, tell: Tell = silent) -> ClickLog:
    """Encode a simulated log.

    Args:
        rows: Its rows.
        tell: Told how far it is.

    Returns:
        The log, with the AUC of its true probabilities on the test rows.
    """
    log = encode("planted", [Source(rows, "whole")], CRITEO, tell)
    is_test = PART_NAMES.index("test")
    tested = [some[split(first, len(some), "whole") == is_test] for first, some in rows.probabilities()]
    return replace(log, bayes_auc=bayes_auc(np.concatenate(tested)))


def schema_path(path: Path) -> Path:
    """Where the schema of a log is looked for.

    Args:
        path: The log, a file or a folder.

    Returns:
        The path of the schema's file, which need not be there.
    """
    if path.is_dir():
        return path / _SCHEMA_NAME
    return path.with_name(path.name.removesuffix(".gz")).with_suffix(".toml")


def _files(path: Path) -> Sequence[tuple[Path, Role]]:
    """The files of a log, and which parts their rows go to."""
    if path.is_file():
        return [(path, "whole")]
    if not path.is_dir():
        raise MissingDataError(f"There is no file or folder {path}: give a log's path behind the colon.")
    found: dict[Role, Path] = {}
    for stem, role in _FILE_ROLES:
        files = [file for ending in _ENDINGS if (file := path / f"{stem}{ending}").is_file()]
        if len(files) > 1:
            names = " and ".join(file.name for file in files)
            raise CorruptFileError(
                f"The folder {path} has {names}, and a log has one {stem} file: take one of them away."
            )
        if files:
            found[role] = files[0]
    for role in ("train", "test"):
        if role not in found:
            raise MissingDataError(
                f"The folder {path} has no {role} file: a log is one file, or a folder with train.csv, test.csv and "
                f"perhaps validation.csv; other endings are {', '.join(_ENDINGS[1:])}."
            )
    if "validation" in found:
        return [(found[role], role) for role in found]
    return [(found["train"], "development"), (found["test"], "test")]


def _schema(files: Sequence[Path], path: Path) -> Schema:
    """The schema that lies beside a log, or what can be inferred from its first file."""
    first, beside = files[0], schema_path(path)
    if beside.is_file():
        file = SchemaFile(beside)
        columns = header_of(first, file.delimiter, has_header=file.has_header, comment=file.comment)
        schema = file.schema(columns)
    else:
        schema = infer_schema(first, beside)
    if schema.has_header:
        _refuse_other_columns(files, schema)
    return schema


def _refuse_other_columns(files: Sequence[Path], schema: Schema) -> None:
    """Refuse files of one log whose first rows do not name the same columns in the same order."""
    first, *others = (header_of(file, schema.delimiter, has_header=True, comment=schema.comment) for file in files)
    for file, columns in zip(files[1:], others, strict=True):
        if columns != first:
            raise CorruptFileError(
                f"{file}, line 1: the columns are {', '.join(columns)}, where those of {files[0]} are "
                f"{', '.join(first)}. All files of a log have the same columns in the same order, with the same "
                "delimiter. Put the names of the columns above the rows, or the columns in that order."
            )
