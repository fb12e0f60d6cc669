"""CSV logs without a schema: what is guessed from their first rows, and what is refused rather than guessed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_logs import csv_file, people

from feedalign_lab.clicks.inference import infer_schema
from feedalign_lab.clicks.schema import Schema
from feedalign_lab.clicks.sources import load_log
from feedalign_lab.errors import CorruptFileError


def guessed(path: Path) -> Schema:
    return infer_schema(path, path.with_suffix(".toml"))


def kinds(path: Path) -> dict[str, str]:
    return {field.name: field.kind for field in guessed(path).fields}


@pytest.mark.parametrize(
    "name", ["id", "ID", "item_id", "item-id", "item id", "ItemID", "itemId", "user.id", "zip", "zip_code", "postcode"]
)
def test_whole_numbers_that_are_names_of_things_are_categories(tmp_path: Path, name: str) -> None:
    rows = [f"{1000 + n * 7 % 400},{20 + n % 60},{n % 2}" for n in range(800)]
    assert kinds(csv_file(tmp_path / "l.csv", rows, header=f"{name},age,label")) == {name: "categorical", "age": "log"}


@pytest.mark.parametrize("name", ["paid", "bid", "humid", "gridsize", "zipper"])
def test_names_that_only_look_like_those_of_things(tmp_path: Path, name: str) -> None:
    rows = [f"{1000 + n * 7 % 400},x,{n % 2}" for n in range(800)]
    assert kinds(csv_file(tmp_path / "l.csv", rows, header=f"{name},city,label"))[name] == "log"


@pytest.mark.parametrize(("num_values", "kind"), [(24, "categorical"), (40, "categorical"), (41, "log")])
def test_whole_numbers_with_many_rows_each_are_categories(tmp_path: Path, num_values: int, kind: str) -> None:
    """Fifty rows for each value are enough to learn it by itself, and nothing is lost by that."""
    rows = [f"{n % num_values},x,{n % 2}" for n in range(2000)]
    assert kinds(csv_file(tmp_path / "l.csv", rows, header="hour,city,label"))["hour"] == kind


@pytest.mark.parametrize(
    ("odd", "share"),
    [("abc", 1), ("NA", 10), ("NA", 60), ("nan", 10), ("inf", 1), ("null", 19)],
    ids=lambda value: str(value),
)
def test_a_column_of_numbers_with_other_text_among_them(tmp_path: Path, odd: str, share: int) -> None:
    rows = [f"{odd if n % 100 < share else n},x,{n % 7 / 2},{n % 2}" for n in range(1000)]
    path = csv_file(tmp_path / "shop.csv", rows, header="age,city,price,label")
    with pytest.raises(CorruptFileError) as error:
        guessed(path)
    told = str(error.value)
    assert f"{path}, line 2: age is {odd!r}" in told
    assert f'missing = ["{odd}"]' in told
    assert "shop.toml" in told
    # The schema that is shown works.
    (tmp_path / "shop.toml").write_text(told[told.index("label =") :].replace("; ", "\n").rstrip("."))
    schema = load_log(f"clicks:{path}").schema
    assert [field.kind for field in schema.fields] == ["log", "categorical", "categorical"]
    assert schema.missing == {odd}


def test_codes_of_letters_and_digits_are_categories(tmp_path: Path) -> None:
    rows = [f"{'A' if n % 4 == 0 else ''}{n % 50},x,{n % 2}" for n in range(1000)]
    assert kinds(csv_file(tmp_path / "l.csv", rows, header="code,city,label"))["code"] == "categorical"


@pytest.mark.parametrize("odd", ["2", "", "maybe"])
def test_an_early_label_that_is_none_is_named_with_its_line(tmp_path: Path, odd: str) -> None:
    rows = people(60)
    rows[10] = f"20,Ulm,{odd}"
    path = csv_file(tmp_path / "l.csv", rows)
    with pytest.raises(CorruptFileError, match=rf"l\.csv, line 12: the label is '{odd}', where 0, 1 are expected"):
        guessed(path)


def test_a_last_label_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("age,label\n" + "".join(f"{n},{'no' if n % 2 else 'yes'}\n" for n in range(30)) + "30,y")
    with pytest.raises(CorruptFileError, match=r"line 32: the label is 'y', where no, yes are expected.*truncated"):
        guessed(path)


@pytest.mark.parametrize(
    "rows",
    [
        people(60),
        [f"{['red', 'blue'][n % 2]},{['Ulm', 'Bonn'][n % 3 == 0]},{['yes', 'no'][n % 2]}" for n in range(60)],
    ],
    ids=["numbers", "words"],
)
def test_a_log_whose_first_row_names_nothing(tmp_path: Path, rows: Sequence[str]) -> None:
    path = csv_file(tmp_path / "shop.csv", rows[1:], header=rows[0])
    with pytest.raises(CorruptFileError, match=r"shop\.csv, line 1: .* header = false .*shop\.toml") as error:
        guessed(path)
    assert 'label = "3"' in str(error.value)


@pytest.mark.parametrize(("delimiter", "shown"), [(";", "';'"), ("\t", r"'\\t'"), ("|", r"'\|'")])
def test_another_delimiter(tmp_path: Path, delimiter: str, shown: str) -> None:
    rows = [row.replace(",", delimiter) for row in people(60)]
    path = csv_file(tmp_path / "shop.csv", rows, header=delimiter.join(["age", "city", "label"]))
    with pytest.raises(CorruptFileError, match=rf"one column, .*delimiter = {shown.replace(chr(39), chr(34))}"):
        guessed(path)


def test_kinds_that_were_guessed_are_known_to_be(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "shop.csv", people(200))
    assert load_log(f"clicks:{path}").schema.is_guessed
    (tmp_path / "shop.toml").write_text('label = "label"')
    assert not load_log(f"clicks:{path}").schema.is_guessed


def test_a_cut_number_below_the_first_rows_keeps_its_kind(tmp_path: Path) -> None:
    rows = [f"{n},x,{n % 2}" for n in range(10_500)] + ["1.5,x,1"]
    log = load_log(f"clicks:{csv_file(tmp_path / 'l.csv', rows)}")
    assert log.schema.fields[0].kind == "log"
