"""Texts by name and by path: what is read, how it is split, and that every way they can be wrong is named."""

import os
from pathlib import Path

import pytest

from feedalign_lab.data import location
from feedalign_lab.errors import CorruptFileError, LabError, MissingDataError, TextError, UnknownNameError
from feedalign_lab.language.corpus import Corpus, load_corpus
from feedalign_lab.language.sources import PART_NAMES, read_document

needs_files = pytest.mark.skipif("FEEDALIGN_DATA" not in os.environ, reason="FEEDALIGN_DATA is not set")
HEADER = "# Title: {0}\r\n\r\n## Author: A. Nobody\r\n\r\n## Year: 1900\r\n\r\n-------\r\n\r\n"


def put(path: Path, content: str | bytes = "Some words.\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of data; the cache is empty too, and nothing is fetched."""
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(location, "cache_root", lambda: tmp_path / "cache")
    monkeypatch.setattr("feedalign_lab.language.corpus.cache_root", lambda: tmp_path / "cache")
    return tmp_path / "data"


def names(corpus: Corpus) -> list[list[str]]:
    return [[document.name for document in corpus.part(part)] for part in PART_NAMES]


def texts(corpus: Corpus) -> list[list[str]]:
    return [[document.text for document in corpus.part(part)] for part in PART_NAMES]


def sentence(text: str | Path, error: type[LabError]) -> str:
    """What is said of a text that cannot be had."""
    with pytest.raises(error) as raised:
        load_corpus(str(text))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_file_is_cut_by_position_between_words(tmp_path: Path) -> None:
    content = " ".join(f"w{number:03}" for number in range(400))
    corpus = load_corpus(str(put(tmp_path / "a.any", content)))
    assert "".join(text for (text,) in texts(corpus)) == content
    assert [corpus.num_words(part) for part in PART_NAMES] == [360, 20, 20]
    assert all(text.startswith("w") for (text,) in texts(corpus))
    assert corpus.train[0].name == "a.any (characters 0 to 1,800)"


def test_text_without_spaces_is_cut_where_the_share_is(tmp_path: Path) -> None:
    corpus = load_corpus(str(put(tmp_path / "a.txt", "x" * 2000)))
    assert [len(text) for (text,) in texts(corpus)] == [1800, 100, 100]


def test_folders_for_the_parts_are_the_split(tmp_path: Path) -> None:
    put(tmp_path / "Train" / "deep" / "b.txt", "b")
    put(tmp_path / "Train" / "a.MD", "a")
    put(tmp_path / "Train" / "a.csv", "not text")
    put(tmp_path / "Train" / ".hidden" / "c.txt", "")
    put(tmp_path / "validation" / "c.tokens", "c")
    put(tmp_path / "test" / "d.txt", "d")
    put(tmp_path / "README.md", "in no part")
    corpus = load_corpus(str(tmp_path))
    assert names(corpus) == [["a.MD", "deep/b.txt"], ["c.tokens"], ["d.txt"]]
    assert corpus.source == f"{tmp_path}, split by what is in it: Train, validation, test"


@pytest.mark.parametrize("form", ["{}.txt", "my-{}.md", "wiki.{}.TOKENS"])
def test_files_for_the_parts_are_the_split(tmp_path: Path, form: str) -> None:
    for part in ("train", "valid", "test"):
        put(tmp_path / form.format(part), part)
    put(tmp_path / "README.md", "in no part")
    assert texts(load_corpus(str(tmp_path))) == [["train"], ["valid"], ["test"]]
    (tmp_path / form.format("valid")).unlink()
    assert "there is not one for validation" in sentence(tmp_path, TextError)


def test_a_file_called_test_among_others_is_a_text_like_them(tmp_path: Path) -> None:
    for name in ("test", "a train", "stories"):
        put(tmp_path / f"{name}.txt", f"{name} " * 100)
    assert len(load_corpus(str(tmp_path)).train) == 3


@pytest.mark.parametrize(("num_files", "num_held_out"), [(10, 1), (40, 2)])
def test_many_files_are_split_by_file(tmp_path: Path, num_files: int, num_held_out: int) -> None:
    for number in range(num_files):
        put(tmp_path / f"{number:02}.txt", f"text {number}")
    corpus = load_corpus(str(tmp_path))
    train, validation, test = names(corpus)
    assert (len(validation), len(test)) == (num_held_out, num_held_out)
    assert sorted(train + validation + test) == [f"{number:02}.txt" for number in range(num_files)]
    held_out = sorted(int(name.removesuffix(".txt")) for name in validation + test)
    assert held_out not in (list(range(2 * num_held_out)), list(range(num_files - 2 * num_held_out, num_files)))
    assert names(load_corpus(str(tmp_path))) == names(corpus)


def test_few_files_are_cut_each(tmp_path: Path) -> None:
    for number in range(9):
        put(tmp_path / f"{number}.txt", f"{number} " * 100)
    corpus = load_corpus(str(tmp_path))
    assert [set(text.split()) for text in texts(corpus)[2]] == [{str(number)} for number in range(9)]
    assert [corpus.num_words(part) for part in PART_NAMES] == [810, 45, 45]


def test_a_home_folder_and_a_relative_path_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.txt", "word " * 100)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert texts(load_corpus("~/a.txt")) == texts(load_corpus("a.txt"))
    assert load_corpus("~/a.txt").name == "~/a.txt"


def test_ends_of_lines_and_byte_order_mark(tmp_path: Path) -> None:
    assert read_document(put(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntwo\rthree\n")).text == "one\ntwo\nthree\n"


def test_novels_are_read_without_their_header(data: Path) -> None:
    for part, title in zip(("train", "valid", "test"), ("One", "Two", "Three"), strict=True):
        book = f"## CHAPTER 1\r\n\r\n# Title: of a chapter\r\n{title}"
        put(data / "books" / part / "A. Nobody" / f"{title}.md", HEADER.format(title) + book)
    put(data / "books" / "train" / "bare.md", "No header\n" + HEADER.format("Four"))
    corpus = load_corpus("novels")
    book = "## CHAPTER 1\n\n# Title: of a chapter\n"
    assert texts(corpus) == [
        [f"{book}One", "No header\n" + HEADER.format("Four").replace("\r", "")],
        [f"{book}Two"],
        [f"{book}Three"],
    ]
    assert names(corpus)[1] == ["A. Nobody/Two.md"]


def test_novels_of_the_cache_serve_where_the_named_folder_has_none(data: Path) -> None:
    for part in ("train", "valid", "test"):
        put(data.parent / "cache" / "books" / part / "a.md", part)
    assert texts(load_corpus("novels")) == [["train"], ["valid"], ["test"]]


@pytest.mark.parametrize("folder", ["{name}", "{name}/{title}", "{title}"])
@pytest.mark.parametrize(("name", "title"), [("wikitext2", "wikitext-2"), ("wikitext103", "wikitext-103")])
def test_wikitext_in_its_own_split(data: Path, name: str, title: str, folder: str) -> None:
    for part in ("train", "valid", "test"):
        put(data / folder.format(name=name, title=title) / f"wiki.{part}.tokens", part)
    assert texts(load_corpus(name)) == [["train"], ["valid"], ["test"]]


def test_wikitext2_without_its_training_text_says_what_can_be_had(data: Path) -> None:
    put(data / "wikitext2" / "wiki.valid.tokens")
    put(data / "wikitext2" / "wiki.test.tokens")
    message = sentence("wikitext2", MissingDataError)
    for part in ("wiki.train.tokens", "wikitext-2-v1.zip", "FEEDALIGN_DATA", "wikitext2-heldout"):
        assert part in message
    (data / "wikitext2" / "wiki.test.tokens").unlink()
    message = sentence("wikitext2", MissingDataError)
    assert "wiki.test.tokens" in message
    assert "heldout" not in message


def test_the_validation_text_of_wikitext2_is_split_between_articles(data: Path) -> None:
    articles = [f" = Article {number} = \n \n" + " Some words . \n" * 20 + " = = Part = = \n" for number in range(40)]
    put(data / "wikitext2" / "wiki.valid.tokens", " \n" + "".join(articles))
    put(data / "wikitext2" / "wiki.test.tokens", " = Other = \n")
    (train,), (validation,), (test,) = texts(load_corpus("wikitext2-heldout"))
    assert train + validation == " \n" + "".join(articles)
    assert validation.startswith(" = Article 36 = \n")
    assert test == " = Other = \n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"a.txt is empty."),
        ("\ufeff", "is empty"),
        (" \n\t\r\n", "a.txt holds nothing but white space."),
        (b"one\nt\xe9n", r"a.txt is not UTF-8: invalid continuation byte at byte 5, 0xe9, in line 2: save the file"),
        ("\ufefftext".encode(), None),
        ("text".encode("utf-16"), "at byte 0, 0xff, in line 1 (it starts as UTF-16 does)"),
        (b"\xef\xbb\xbfab\xff", "at byte 5, 0xff"),
        (b"word \xc3", "unexpected end of data at byte 5, 0xc3"),
    ],
)
def test_files_that_are_no_text(tmp_path: Path, content: str | bytes, message: str | None) -> None:
    path = put(tmp_path / "folder" / "a.txt", content)
    if message is None:
        assert read_document(path).text == "text"
        return
    for text in (path, path.parent):
        assert message in sentence(text, CorruptFileError)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"gone\.txt cannot be read: No such file or directory"):
        read_document(tmp_path / "gone.txt")


def test_folders_without_text(tmp_path: Path) -> None:
    put(tmp_path / "bare" / ".hidden")
    assert "is an empty folder" in sentence(tmp_path / "bare", TextError)
    put(tmp_path / "images" / "deep" / "a.png")
    message = sentence(tmp_path / "images", TextError)
    assert (
        "images holds no text file among the files in it (1): files ending in .txt, .md and .tokens were expected"
        in message
    )
    for part in ("train", "valid", "test"):
        put(tmp_path / "split" / part / "a.txt")
    (tmp_path / "split" / "valid" / "a.txt").unlink()
    assert f"{tmp_path / 'split' / 'valid'} is an empty folder" in sentence(tmp_path / "split", TextError)


def test_an_incomplete_or_ambiguous_split_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "train" / "a.txt")
    put(tmp_path / "dev" / "a.txt")
    message = sentence(tmp_path, TextError)
    assert "has the folders train and dev" in message
    assert "there is not one for test" in message
    put(tmp_path / "test" / "a.txt")
    put(tmp_path / "val" / "a.txt")
    assert "there is not one for validation" in sentence(tmp_path, TextError)


def test_text_too_short_for_three_parts(tmp_path: Path) -> None:
    assert "nothing of it is left for the validation part" in sentence(put(tmp_path / "a.txt", "word"), TextError)


def test_what_is_neither_name_nor_path(data: Path) -> None:
    message = sentence("novel", UnknownNameError)
    assert message.startswith("There is no text, file or folder called 'novel'. Did you mean novels?")
    assert "wikitext2-heldout" in message
    for text in ("", "/no/such/file.txt", "x" * 5000, "a\0b", "~nobody-at-all/a.txt"):
        sentence(text, UnknownNameError)


def test_missing_novels_name_folders_and_variable(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(data / "books" / "a.md")
    message = sentence("novels", MissingDataError)
    for part in (str(data / "books"), str(data.parent / "cache" / "books"), "FEEDALIGN_DATA", "https://"):
        assert part in message
    monkeypatch.delenv("FEEDALIGN_DATA")
    assert "(FEEDALIGN_DATA is not set)" in sentence("novels", MissingDataError)


@needs_files
def test_real_texts() -> None:
    novels = load_corpus("novels")
    assert [len(novels.part(part)) for part in PART_NAMES] == [14, 2, 2]
    assert [round(novels.num_words(part), -4) for part in PART_NAMES] == [2_170_000, 170_000, 190_000]
    assert not any("Author:" in book.text for part in PART_NAMES for book in novels.part(part))
    shakespeare = load_corpus("shakespeare")
    assert sum(len(text) for (text,) in texts(shakespeare)) == 1_115_394
    wikitext = load_corpus("wikitext2-heldout")
    (train,), (validation,), (test,) = texts(wikitext)
    # The published counts hold one token for the end of each line.
    assert wikitext.num_words("train") + wikitext.num_words("validation") + (train + validation).count("\n") == 217_646
    assert wikitext.num_words("test") + test.count("\n") == 245_569
    assert len(train) > 8 * len(validation)
