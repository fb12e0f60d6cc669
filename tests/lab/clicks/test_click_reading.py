"""Logs from text to categories: formats, splits, damage, and what is left behind."""

import gzip
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from small_logs import criteo_file, csv_file, damaged, people

from feedalign_lab.clicks import log as log_module
from feedalign_lab.clicks.encoders import (
    HashEncoder,
    QuantileEncoder,
    ThresholdEncoder,
    make_encoder,
    save_memory,
)
from feedalign_lab.clicks.log import ClickLog
from feedalign_lab.clicks.numerals import log_category
from feedalign_lab.clicks.rows import TextFile
from feedalign_lab.clicks.schema import ADULT, CRITEO, Field
from feedalign_lab.clicks.sources import load_log
from feedalign_lab.clicks.splitting import split
from feedalign_lab.errors import (
    CorruptFileError,
    LabError,
    MissingDataError,
    OutputFolderError,
    SettingError,
    UnknownNameError,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setattr(log_module, "cache_root", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def content(log: ClickLog) -> list[tuple[list[list[int]], list[int]]]:
    return [
        (categories.tolist(), labels.tolist())
        for part in log.parts.values()
        for categories, labels in [part.read(0, part.num_rows)]
    ]


# Encoders, by hand.


@pytest.mark.parametrize(
    ("number", "category"),
    [(0, -2), (1, -1), (2, 0), (-1, -3), (-2, -4), (3, 1), (100, 21), (math.e**3 + 0.01, 9), (0.5, -2), (-3, -6)],
)
def test_counts_become_squared_logarithms(number: float, category: int) -> None:
    assert log_category(number) == category


def test_log_categories_of_whole_numbers_never_meet_from_two_sides() -> None:
    assert len({log_category(n) for n in range(-3, 4)}) == 7


def test_only_frequent_values_get_a_category() -> None:
    encoder = ThresholdEncoder(2, is_log=False)
    encoder.observe(["b", "a", "b", "c", ""])
    encoder.observe(["a", "b", ""])
    encoder.finish()
    assert encoder.num_categories == 4
    # By frequency, then by name: b 3, "" 2, a 2; c is too rare, d was never seen.
    assert encoder.encode(["b", "", "a", "c", "d"]).tolist() == [1, 2, 3, 0, 0]


def test_counts_with_one_logarithm_share_a_category() -> None:
    encoder = ThresholdEncoder(1, is_log=True)
    encoder.observe(["100", "101", "1", ""])
    encoder.finish()
    assert encoder.encode(["100", "99", "101"]).tolist() == [1, 1, 1]
    assert encoder.num_categories == 4
    assert encoder.encode(["", "7"])[1] == 0


def test_rarest_values_are_forgotten_first_where_memory_is_short() -> None:
    encoder = ThresholdEncoder(1, is_log=False)
    encoder.observe([*"aaabbc", *map(str, range(50))])
    save_memory([encoder], most=2)
    encoder.finish()
    assert encoder.encode(["a", "b", "c", "1"]).tolist() == [1, 2, 0, 0]


def test_hashed_values_stay_in_their_buckets() -> None:
    encoder, other = HashEncoder(7), HashEncoder(7)
    texts = [f"{n:x}" for n in range(200)]
    found = encoder.encode([*texts, ""])
    assert found.tolist() == other.encode([*texts, ""]).tolist()
    assert set(found.tolist()) == set(range(8))
    assert found[-1] == 0
    assert encoder.num_categories == 8


def test_quantiles_hold_equally_many_and_part_no_equal_numbers() -> None:
    encoder = QuantileEncoder()
    numbers = np.random.default_rng(0).normal(size=6400)
    encoder.observe([*map(str, numbers), ""])
    encoder.finish()
    counts = np.bincount(encoder.encode([*map(str, numbers), ""]))
    assert counts[0] == 1
    assert len(counts) == encoder.num_categories == 33
    assert counts[1:].min() > 150
    same = QuantileEncoder()
    same.observe(["2.5"] * 100)
    same.finish()
    assert len(set(same.encode(["2.5"] * 10).tolist())) == 1


def test_quantiles_come_from_all_rows_in_little_memory() -> None:
    encoder = QuantileEncoder()
    for start in range(0, 300_000, 10_000):
        encoder.observe([str(n) for n in range(start, start + 10_000)])
        assert len(encoder._sample) <= 100_000
    encoder.finish()
    counts = np.bincount(encoder.encode([str(n) for n in range(0, 300_000, 100)]))[1:]
    assert counts.min() > 85
    assert counts.max() < 105


@pytest.mark.parametrize("text", ["x", "nan", "inf", "1,5"])
@pytest.mark.parametrize("kind", ["log", "quantiles"])
def test_text_that_is_no_number_is_refused(kind: str, text: str) -> None:
    encoder = make_encoder(Field("f", kind), CRITEO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=text):
        encoder.observe(["1", text])


# Splits.


def test_splits_depend_on_the_row_alone_and_have_their_shares() -> None:
    whole = split(0, 50_000, "whole")
    pieces = [split(start, 12_345, "whole") for start in range(0, 50_000, 12_345)]
    assert np.array_equal(np.concatenate(pieces)[:50_000], whole)
    assert np.bincount(whole) / 50_000 == pytest.approx([0.8, 0.1, 0.1], abs=0.005)
    assert np.bincount(split(0, 50_000, "development")) / 50_000 == pytest.approx([0.9, 0.1], abs=0.005)
    assert set(split(0, 100, "test").tolist()) == {2}
    assert set(split(0, 100, "validation").tolist()) == {1}


# Criteo's format.


def test_a_log_in_criteos_format(tmp_path: Path) -> None:
    log = load_log(f"criteo:{criteo_file(tmp_path, 3000)}")
    assert len(log.sizes) == 39
    assert sum(part.num_rows for part in log.parts.values()) == 3000
    offsets = np.cumsum([0, *log.sizes])
    for part in log.parts.values():
        categories, labels = part.read(0, part.num_rows)
        assert (categories >= offsets[:-1]).all()
        assert (categories < offsets[1:]).all()
        assert labels.sum() == part.num_clicks


def test_rows_by_hand(tmp_path: Path) -> None:
    """What the two passes do, done again with dictionaries."""
    path = criteo_file(tmp_path, 1500)
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    parts = split(0, len(rows), "whole")
    log = load_log(f"criteo:{path}")
    number = 3 + 14
    seen = [row[number] for row, part in zip(rows, parts, strict=True) if part == 0]
    order = sorted((v for v in set(seen) if seen.count(v) >= 10), key=lambda v: (-seen.count(v), v))
    offset = sum(log.sizes[: number - 1])
    expected = [
        offset + (order.index(row[number]) + 1 if row[number] in order else 0)
        for row, part in zip(rows, parts, strict=True)
        if part == 2
    ]
    categories, labels = log.parts["test"].read(0, log.parts["test"].num_rows)
    assert categories[:, number - 1].tolist() == expected
    assert labels.tolist() == [int(row[0]) for row, part in zip(rows, parts, strict=True) if part == 2]


def test_categories_come_from_training_rows_alone(tmp_path: Path) -> None:
    path = criteo_file(tmp_path, 600)
    before = load_log(f"criteo:{path}")
    row = int(np.flatnonzero(split(0, 600, "whole") == 2)[0])
    lines = path.read_text().splitlines(keepends=True)
    columns = lines[row].split("\t")
    columns[20] = "never-seen"
    after = load_log(f"criteo:{damaged(path, row + 1, chr(9).join(columns))}")
    assert after.sizes == before.sizes
    assert after.parts["test"].read(0, 1)[0][0, 19] == sum(before.sizes[:19])


def test_a_compressed_log_is_the_same(tmp_path: Path) -> None:
    path = criteo_file(tmp_path)
    (tmp_path / "log.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert content(load_log(f"criteo:{path}")) == content(load_log(f"criteo:{path}.gz"))


def test_a_large_log_lies_in_files_and_is_the_same(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = criteo_file(tmp_path)
    expected = load_log(f"criteo:{path}")
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    log = load_log(f"criteo:{path}")
    assert content(log) == content(expected)
    assert log.sizes == expected.sizes
    part = log.parts["train"]
    assert part.read(7, 19)[0].tolist() == expected.parts["train"].read(7, 19)[0].tolist()
    assert len(part.read(part.num_rows - 3, part.num_rows + 5)[1]) == 3
    # Found again, without the text being read.
    monkeypatch.setattr(log_module, "_encode_into", lambda *args: pytest.fail("encoded anew"))
    assert content(load_log(f"criteo:{path}")) == content(expected)
    assert len(list((cache / "clicks").iterdir())) == 1


def test_a_changed_log_is_encoded_anew(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = criteo_file(tmp_path, 400)
    load_log(f"criteo:{path}")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert sum(part.num_rows for part in load_log(f"criteo:{path}").parts.values()) == 399


def test_a_log_that_was_changed_behind_its_size_and_time_is_encoded_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -p` or an archive puts another one in its place."""
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = criteo_file(tmp_path, 400)
    before, state = content(load_log(f"criteo:{path}")), path.stat()
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[::-1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    after = content(load_log(f"criteo:{path}"))
    assert after != before
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 2**40)
    assert after == content(load_log(f"criteo:{path}"))


def test_few_places_of_a_large_log_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1 GiB, which takes no room on a disk: a command must not wait for it, and the first and last bytes count."""
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(2**30)
    time = path.stat().st_mtime_ns
    keys = []
    for place in (None, 0, 2**29, 2**30 - 1):
        if place is not None:
            with path.open("r+b") as file:
                file.seek(place)
                file.write(b"x")
        os.utime(path, ns=(time, time))
        start = perf_counter()
        keys.append(log_module.key_of([path]))
        assert perf_counter() - start < 1
    assert len({*keys}) == 3
    assert keys[1] == keys[2]


def test_a_large_log_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", -1)
    with pytest.raises(MissingDataError, match=f"{tmp_path} cannot be read: Is a directory"):
        log_module.key_of([tmp_path])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def lose(path: Path) -> None:
    path.unlink()


def change(path: Path) -> None:
    """To as many other bytes, at some other time."""
    time = path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes().replace(b"1", b"2") if path.suffix == ".json" else path.stat().st_size * b"1")
    os.utime(path, ns=(time, time + 1))


@pytest.mark.parametrize("damage", [cut, lose, change])
@pytest.mark.parametrize("name", ["train.categories", "test.labels", "encoder.json", "facts.json"])
def test_a_damaged_cache_is_made_anew(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], name: str
) -> None:
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = criteo_file(tmp_path)
    expected = content(load_log(f"criteo:{path}"))
    (folder,) = (cache / "clicks").iterdir()
    whole = {one.name: one.read_bytes() for one in folder.iterdir() if one.name != "facts.json"}
    damage(folder / name)
    assert content(load_log(f"criteo:{path}")) == expected
    assert {one.name: one.read_bytes() for one in folder.iterdir() if one.name != "facts.json"} == whole
    assert [one.name for one in (cache / "clicks").iterdir()] == [folder.name]
    monkeypatch.setattr(log_module, "_encode_into", lambda *args: pytest.fail("encoded anew"))
    assert content(load_log(f"criteo:{path}")) == expected


def test_facts_that_were_changed_are_not_believed(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = criteo_file(tmp_path, 400)
    sizes = load_log(f"criteo:{path}").sizes
    (facts,) = (cache / "clicks").glob("*/facts.json")
    content = json.loads(facts.read_text())
    content["sizes"][0] += 1
    facts.write_text(json.dumps(content))
    assert load_log(f"criteo:{path}").sizes == sizes


# Damage.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1\t2\t3\n", r"log\.txt, line 7: 3 columns, where 40 are expected"),
        ("1" + 40 * "\t5" + "\n", "line 7: 41 columns"),
        ("2" + 39 * "\t5" + "\n", "line 7: the label is '2', where 0, 1 are expected"),
        (39 * "\t5" + "\n", "line 7: the label is ''"),
        ("1" + 3 * "\t5" + "\tfive" + 35 * "\t5" + "\n", "line 7: I4 is 'five', where a number is expected"),
    ],
)
@pytest.mark.parametrize("size", ["small", "large"])
def test_damage_is_named_with_its_line_and_leaves_nothing_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, text: str, sentence: str, size: str
) -> None:
    if size == "large":
        monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    path = damaged(criteo_file(tmp_path), 7, text)
    with pytest.raises(CorruptFileError, match=sentence):
        load_log(f"criteo:{path}")
    assert not list(cache.rglob("*"))[1:]


def test_a_truncated_last_line(tmp_path: Path) -> None:
    path = criteo_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptFileError, match=r"line 400: .*what a truncated file looks like"):
        load_log(f"criteo:{path}")


def test_a_truncated_compressed_log(tmp_path: Path) -> None:
    path = tmp_path / "log.txt.gz"
    path.write_bytes(gzip.compress(criteo_file(tmp_path).read_bytes())[:-2000])
    with pytest.raises(CorruptFileError, match=r"log\.txt\.gz, behind line \d+: "):
        load_log(f"criteo:{path}")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = criteo_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[11] = b"\xff" + lines[11]
    path.write_bytes(b"".join(lines))
    with pytest.raises(CorruptFileError, match=r"log\.txt, line 12: not UTF-8 text"):
        load_log(f"criteo:{path}")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_log(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text(text)
    with pytest.raises(CorruptFileError, match="there are no rows in it"):
        load_log(f"criteo:{path}")


def test_missing_values_are_a_category(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    rows = [
        f"{n % 2}\t{'' if n % 3 else 8}" + 12 * "\t1" + ("\t" if n % 2 else "\tab") + 25 * "\tcd" for n in range(200)
    ]
    path.write_text("\n".join(rows) + "\n")
    log = load_log(f"criteo:{path}")
    assert log.sizes == (3, *([2] * 12), 3, *([2] * 25))


def test_a_single_class_cannot_be_learned(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(("1" + 39 * "\t5" + "\n") * 100)
    with pytest.raises(SettingError, match=r"The train part of .* has (\d+) rows, \1 of them clicks; it needs both"):
        load_log(f"criteo:{path}")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("criteo:/nowhere/log.txt", MissingDataError),
        ("criteo:", UnknownNameError),
        ("clicks", UnknownNameError),
        ("adlut", UnknownNameError),
    ],
)
def test_data_that_there_are_not(data: str, error: type[LabError]) -> None:
    with pytest.raises(error):
        load_log(data)


def test_a_cache_that_cannot_be_written(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "LARGEST_IN_MEMORY", 0)
    cache.write_text("a file in the way")
    with pytest.raises(OutputFolderError, match=r"The encoded log cannot be written into .* XDG_CACHE_HOME"):
        load_log(f"criteo:{criteo_file(tmp_path)}")


# UCI Adult.


def test_adults_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "{age}, Private, 77516, Bachelors, 13, Never-married, Sales, Husband, White, Male, 2174, 0, 40, ?, {label}"
    rows = [row.format(age=20 + n % 40, label=(">50K" if n % 3 else "<=50K")) for n in range(300)]
    folder = tmp_path / "ctr" / "adult"
    folder.mkdir(parents=True)
    (folder / "adult.data").write_text("\n".join(rows) + "\n\n")
    (folder / "adult.test").write_text("|1x3 Cross validator\n" + "\n".join(f"{r}." for r in rows) + "\n\n")
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    log = load_log("adult")
    assert {name: part.num_rows for name, part in log.parts.items()}["test"] == 300
    assert log.parts["train"].num_rows + log.parts["validation"].num_rows == 300
    assert log.parts["test"].num_clicks == 200
    assert log.sizes[-1] == 2
    chunk = next(iter(TextFile(folder / "adult.test", ADULT).chunks()))
    assert chunk.columns[13][0] == ""
    assert chunk.where(0) == f"{folder / 'adult.test'}, line 2"


# CSV files, with and without a schema.


def test_a_schema_is_inferred(tmp_path: Path) -> None:
    rows = [f"{n},{n / 7:.3f},{n % 5},{'x' if n % 2 else 'y'},{'yes' if n % 4 else 'no'}" for n in range(200)]
    log = load_log(f"clicks:{csv_file(tmp_path / 'l.csv', rows, header='a,b,c,d,Clicked')}")
    assert [field.kind for field in log.schema.fields] == ["log", "quantiles", "categorical", "categorical"]
    assert log.schema.positive == {"yes"}
    assert log.schema.label_column == 4


def test_labels_are_found_by_name_before_place(tmp_path: Path) -> None:
    rows = [f"{n % 2},{n % 3},{n % 2}" for n in range(100)]
    log = load_log(f"clicks:{csv_file(tmp_path / 'l.csv', rows, header='click,a,b')}")
    assert log.schema.label_column == 0
    assert [field.name for field in log.schema.fields] == ["a", "b"]


def test_files_of_spreadsheets(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "l.csv", people(200))
    expected = content(load_log(f"clicks:{path}"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    log = load_log(f"clicks:{path}")
    assert log.schema.fields[0].name == "age"
    assert content(log) == expected


def test_quotes_hold_delimiters_and_lines(tmp_path: Path) -> None:
    rows = [f'{n},"Ulm, an der\nDonau",{n % 2}' for n in range(100)]
    path = csv_file(tmp_path / "l.csv", rows)
    assert sum(part.num_rows for part in load_log(f"clicks:{path}").parts.values()) == 100
    rows = [*people(3), f"20,{chr(34)}Ulm,1", *people(3)]
    with pytest.raises(CorruptFileError, match=r"m\.csv, line 5: a quote is opened and not closed"):
        load_log(f"clicks:{csv_file(tmp_path / 'm.csv', rows)}")


def test_a_quote_within_quotes_that_is_written_once(tmp_path: Path) -> None:
    rows = [*people(3), f"20,{chr(34)}the {chr(34)}old{chr(34)} town{chr(34)},1"]
    with pytest.raises(CorruptFileError, match=r"m\.csv, line 5: text behind a closing quote.*written twice"):
        load_log(f"clicks:{csv_file(tmp_path / 'm.csv', rows)}")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([*people(), "20,Ulm"], "line 62: 2 columns, where the first row names 3"),
        ([f"{n},x,{n}" for n in range(50)], "no label can be told. The column 'label' holds '0', '1', '10'"),
        (["1,2,blue", "1,2,red"] * 20, "holds 'blue', 'red'; 1 and 0 would do"),
        ([], "no rows in it but the names"),
    ],
)
def test_csv_files_that_cannot_be_inferred(tmp_path: Path, rows: list[str], sentence: str) -> None:
    with pytest.raises(CorruptFileError, match=sentence):
        load_log(f"clicks:{csv_file(tmp_path / 'l.csv', rows)}")


def test_text_far_below_where_numbers_were_inferred(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "l.csv", [f"{n},x,{n % 2}" for n in range(10_500)] + ["many,x,1"])
    with pytest.raises(
        CorruptFileError, match=r'line 10502: age is \'many\'.*make the field "categorical" in a schema'
    ):
        load_log(f"clicks:{path}")


SCHEMA = """
label = "bought"
positive = ["t"]
negative = ["f"]
ignore = ["id"]
delimiter = ";"
missing = ["NA"]
min_count = 2
[fields]
age = "log"
"""


def test_a_schema_beside_the_log(tmp_path: Path) -> None:
    rows = [f"{n};{20 + n % 5 if n % 7 else 'NA'};{'tf'[n % 2]};{n % 3}" for n in range(120)]
    path = csv_file(tmp_path / "shop.csv", rows, header="id;age;bought;city")
    (tmp_path / "shop.toml").write_text(SCHEMA)
    log = load_log(f"clicks:{path}")
    assert [(field.name, field.kind) for field in log.schema.fields] == [("age", "log"), ("city", "categorical")]
    # Ages of 20, of 21 to 23, of 24, and missing ones.
    assert log.sizes == (1 + 4, 1 + 3)
    hashed = SCHEMA.replace("[fields]", 'encoding = "hash"\nnum_buckets = 11\n[fields]')
    (tmp_path / "shop.toml").write_text(hashed)
    assert load_log(f"clicks:{path}").sizes == (1 + 4, 1 + 11)


def test_a_log_without_a_header(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "l.csv", people(200)[1:], header=people()[0])
    (tmp_path / "l.toml").write_text('header = false\nlabel = "3"\n[fields]\n1 = "log"\n')
    log = load_log(f"clicks:{path}")
    assert [(field.name, field.kind) for field in log.schema.fields] == [("1", "log"), ("2", "categorical")]
    assert sum(part.num_rows for part in log.parts.values()) == 200


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('label = "clicks"', "names the column 'clicks', but the log has age, city, label"),
        ("[fields]\nage = 'number'", "makes age 'number'; a field is one of categorical, log, quantiles"),
        ("labels = 'label'", "has the key 'labels'; those it can have"),
        ("header = 1", "has header = 1; give a bool"),
        ("min_count = 0", "has min_count = 0; give at least 1"),
        ("encoding = 'onehot'", "give one of threshold, hash"),
        ("delimiter = ', '", "give a single character"),
        ("ignore = ['label']", "ignores the label's column"),
        ("ignore = ['age', 'city']", "leaves no field"),
        ("label = ", "is not TOML"),
        ("positive = ['yes']\nnegative = ['no', 'yes']", "calls 'yes' both positive and negative"),
        ("positive = []", "has no text for positive"),
        ("num_buckets = 7", 'has num_buckets, which means something under encoding = "hash" alone'),
        ("encoding = 'hash'\nmin_count = 3", "has min_count, which .* no counts"),
    ],
)
def test_schemas_that_are_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    path = csv_file(tmp_path / "l.csv", people())
    (tmp_path / "l.toml").write_text(text)
    with pytest.raises(CorruptFileError, match=sentence):
        load_log(f"clicks:{path}")


@pytest.mark.parametrize("text", ["", "min_count = 3", "header = false"])
def test_a_schema_without_a_label(tmp_path: Path, text: str) -> None:
    path = csv_file(tmp_path / "l.csv", people(), header="age,city,bought")
    (tmp_path / "l.toml").write_text(text)
    columns = "1, 2, 3" if text.startswith("header") else "age, city, bought"
    with pytest.raises(CorruptFileError, match=f"does not say which column is the label.* label = .* {columns}"):
        load_log(f"clicks:{path}")


def test_comments_above_the_names(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "l.csv", ["age,city,label", *people(200)], header="# a list of people")
    (tmp_path / "l.toml").write_text('comment = "#"\n[fields]\nage = "log"')
    log = load_log(f"clicks:{path}")
    assert [field.name for field in log.schema.fields] == ["age", "city"]
    assert sum(part.num_rows for part in log.parts.values()) == 200


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("city,age,label", r"test\.csv, line 1: the columns are city, age, label, where those of .*train\.csv are age"),
        ("20,Ulm,1", "the columns are 20, Ulm, 1, where .* Put the names of the columns above"),
        ("age\tcity\tlabel", "where those of .* the same delimiter"),
    ],
)
@pytest.mark.parametrize("has_schema", [False, True])
def test_parts_with_other_columns(tmp_path: Path, header: str, sentence: str, has_schema: bool) -> None:
    csv_file(tmp_path / "train.csv", people(100))
    csv_file(tmp_path / "test.csv", people(41), header=header)
    if has_schema:
        (tmp_path / "schema.toml").write_text('[fields]\nage = "log"')
    with pytest.raises(CorruptFileError, match=sentence):
        load_log(f"clicks:{tmp_path}")


@pytest.mark.parametrize("other", ["train.txt", "train.csv.gz"])
def test_two_files_for_a_part(tmp_path: Path, other: str) -> None:
    for name in ("train.csv", "test.csv", other):
        csv_file(tmp_path / name, people(100))
    with pytest.raises(CorruptFileError, match=f"train.csv and {other}.*take one of them away"):
        load_log(f"clicks:{tmp_path}")


def test_a_test_part_with_tabs(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", people(100))
    csv_file(tmp_path / "test.tsv", [row.replace(",", "\t") for row in people(41)], header="age\tcity\tlabel")
    with pytest.raises(CorruptFileError, match=r"test\.tsv, line 1: .* the same delimiter"):
        load_log(f"clicks:{tmp_path}")


def test_a_folder_with_parts_of_its_own(tmp_path: Path) -> None:
    csv_file(tmp_path / "train.csv", people(100))
    with pytest.raises(MissingDataError, match="has no test file"):
        load_log(f"clicks:{tmp_path}")
    csv_file(tmp_path / "test.csv", people(41))
    log = load_log(f"clicks:{tmp_path}")
    assert log.parts["test"].num_rows == 41
    assert log.parts["train"].num_rows + log.parts["validation"].num_rows == 100
    csv_file(tmp_path / "validation.csv", people(30))
    assert [part.num_rows for part in load_log(f"clicks:{tmp_path}").parts.values()] == [100, 30, 41]


def test_columns_in_another_number_than_criteos(tmp_path: Path) -> None:
    assert CRITEO.num_columns == 40
    assert replace(CRITEO, ignored=frozenset({40})).field_columns == tuple(range(1, 40))
