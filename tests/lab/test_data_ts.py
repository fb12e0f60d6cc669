"""`.ts` files: what is read, and that every way they can be wrong is named."""

from pathlib import Path

import numpy as np
import pytest

from feedalign_lab.data.ts import read_ts
from feedalign_lab.errors import CorruptFileError, UnsupportedSeriesError

HEADER = """# A comment,
#@data in a comment says nothing
@problemName made
@timeStamps false
@missing false
@univariate false
@dimensions 2
@equalLength true
@seriesLength 3
@classLabel true left right
@data
"""
LINES = "1,2,3:4,5,6:right\n-0.5, 1e-3,0 : 7,8,9 :left\n"


def write(path: Path, content: str | bytes) -> Path:
    path = path / "made.ts"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def header(**changes: str | None) -> str:
    """The header with other facts, or without those that are None."""
    lines = []
    for line in HEADER.splitlines():
        key = line.split()[0].lstrip("@")
        if key not in changes:
            lines.append(line)
        elif changes[key] is not None:
            lines.append(f"@{key} {changes[key]}")
    return "\n".join(lines) + "\n"


def test_steps_dimensions_and_labels(tmp_path: Path) -> None:
    made = read_ts(write(tmp_path, HEADER + LINES))
    assert made.x.shape == (2, 3, 2)
    assert (made.x.dtype, made.y.dtype) == (np.float32, np.int64)
    assert made.x[0].tolist() == [[1, 4], [2, 5], [3, 6]]
    np.testing.assert_array_equal(made.x[1, :, 0], np.float32([-0.5, 1e-3, 0]))
    assert made.labels == ("left", "right")
    assert made.y.tolist() == [1, 0]


def test_labels_are_numbered_in_the_headers_order(tmp_path: Path) -> None:
    made = read_ts(write(tmp_path, "@univariate true\n@classLabel true 2 -1 a.b\n@data\n5:a.b\n6:-1\n7:2\n"))
    assert made.x.shape == (3, 1, 1)
    assert made.y.tolist() == [2, 1, 0]


def test_what_writers_differ_in(tmp_path: Path) -> None:
    text = HEADER.upper().replace("LEFT RIGHT", "left right").replace("\n", "\r\n") + "\r\n" + LINES
    latin_comment = "# Hélder\n".encode("latin-1")
    made = read_ts(write(tmp_path, b"\xef\xbb\xbf" + latin_comment + text.encode()))
    assert made.x.shape == (2, 3, 2)


def test_facts_that_are_not_there_are_taken_from_the_series(tmp_path: Path) -> None:
    made = read_ts(write(tmp_path, "@classLabel true left right\n@data\n" + LINES))
    assert made.x.shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"made\.ts is empty"),
        (" \n\n", "is empty"),
        ("# nothing but this\n", "no line @data"),
        (HEADER, "holds no series"),
        (HEADER.replace("@data", "") + LINES, r"line 12, before @data, is neither .* '1,2,3:4,5,6:right'"),
        (header(classLabel=None) + LINES, "announces no classes"),
        (header(classLabel="false") + LINES, "announces no classes"),
        (header(classLabel="true") + LINES, "announces no classes"),
        (header(classLabel="true left left") + LINES, "label twice"),
        (header(classLabel="maybe left right") + LINES, "'maybe' behind @classlabel"),
        (header(dimensions="two") + LINES, "'two' behind @dimensions: a number of at least 1"),
        (header(seriesLength="0") + LINES, "'0' behind @serieslength"),
        (header(univariate="true") + LINES, "contradicts itself: @univariate true, but @dimensions 2"),
        (header(univariate="true", dimensions=None) + LINES, "line 11: the series has 2 dimensions, 1 were expected"),
        (header(dimensions="3") + LINES, "line 12: the series has 2 dimensions, 3 were expected"),
        (header(dimensions=None) + "1,2,3:4,5,6:left\n1,2,3:left\n", "line 12: the series has 1 dimensions, 2 were"),
        (header(seriesLength="4") + LINES, "line 12: the series has 3 steps, but the header announces 4"),
        (HEADER + "1,2,3:4,5,6:up\n", r"line 12: the label 'up' is none of those in the header: left, right"),
        (HEADER + "1,2,3:4,5,6:\n", "the label '' is none"),
        (HEADER + "1,2,3\n", "the label '1,2,3' is none"),
        (HEADER + "left\n", "the label 'left' is none"),
        (HEADER + "1,x,3:4,5,6:left\n", r"line 12: what stands between two commas is no number \(.*'x'"),
        (HEADER + "1,,3:4,5,6:left\n", "is no number"),
        (HEADER + "1,NaN,3:4,5,6:left\n", "line 12: NaN is not a finite number"),
        (HEADER + "1,2,-inf:4,5,6:left\n", "-inf is not a finite number"),
        (HEADER + "1,2,1e39:4,5,6:left\n", "1e39 is not a finite number"),
        ((HEADER + LINES).encode("utf-16"), "line 1 is not UTF-8"),
        (HEADER.encode() + b"1,2,3:4,5,6:l\xe9ft\n", "line 12 is not UTF-8"),
    ],
)
def test_corrupt_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(CorruptFileError, match=message) as raised:
        read_ts(write(tmp_path, content))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + "1,?,3:4,5,6:left\n", r"line 12: values are missing \(\?\): fill them in first"),
        (header(seriesLength=None) + "1,2,3:4,5:left\n", r"differ in length \(2, 3 steps\)"),
        (
            header(seriesLength=None) + "1,2,3:4,5,6:left\n1,2:3,4:left\n",
            r"line 12: .* differ in length \(2, 3 steps\)",
        ),
        (header(timeStamps="true") + "(0,1),(1,2):left\n", "has time stamps"),
    ],
)
def test_series_that_cannot_be_trained_on(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UnsupportedSeriesError, match=message):
        read_ts(write(tmp_path, content))
