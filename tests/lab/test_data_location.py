"""Where data files are looked for, and what is said when they are nowhere."""

import hashlib
from pathlib import Path

import pooch
import pytest

from feedalign_lab.data import location
from feedalign_lab.data.location import Archive, locate
from feedalign_lab.errors import CorruptFileError, MissingDataError

CONTENT = b"the file"
ARCHIVE = Archive("https://example.org/part.gz", hashlib.md5(CONTENT).hexdigest(), "folder", ("part.gz",))


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The named folder and the cache, both empty; any download fails as it does without a network."""
    named, cache = tmp_path / "named", tmp_path / "cache"
    monkeypatch.setenv("FEEDALIGN_DATA", str(named))
    monkeypatch.setattr(location, "cache_root", lambda: cache)
    serve(monkeypatch, None)
    return named, cache


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    """Let every address serve this content, or fail."""

    def download(self: object, url: str, output_file: str | Path, *_: object, **__: object) -> None:
        if content is None:
            raise ConnectionError("no network")
        Path(output_file).write_bytes(content)

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)


def put(root: Path) -> Path:
    path = root / "folder" / "part.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


def test_named_folder_comes_first(roots: tuple[Path, Path]) -> None:
    named, cache = put(roots[0]), put(roots[1])
    assert locate(ARCHIVE) == [named]
    named.unlink()
    assert locate(ARCHIVE) == [cache]


def test_cache_serves_without_the_variable(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    put(roots[0])
    cached = put(roots[1])
    monkeypatch.delenv("FEEDALIGN_DATA")
    assert locate(ARCHIVE) == [cached]


def test_missing_file_names_address_folder_and_variable(roots: tuple[Path, Path]) -> None:
    with pytest.raises(MissingDataError) as raised:
        locate(ARCHIVE)
    message = str(raised.value)
    for part in (ARCHIVE.url, str(roots[0] / "folder"), str(roots[1] / "folder"), "FEEDALIGN_DATA", "part.gz"):
        assert part in message
    assert "\n" not in message


def test_message_says_that_the_variable_is_not_set(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEEDALIGN_DATA")
    with pytest.raises(MissingDataError, match="FEEDALIGN_DATA is not set"):
        locate(ARCHIVE)


def test_fetched_file_lands_in_the_cache(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT)
    assert locate(ARCHIVE) == [roots[1] / "folder" / "part.gz"]
    assert (roots[1] / "folder" / "part.gz").read_bytes() == CONTENT


def test_fetched_file_with_the_wrong_checksum_is_refused(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, b"something else")
    with pytest.raises(CorruptFileError, match="checksum"):
        locate(ARCHIVE)
    assert not (roots[1] / "folder" / "part.gz").exists()


def test_fetched_archive_is_unpacked(roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "batch").write_bytes(CONTENT)
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "inner", arcname="inner")
    packed = (tmp_path / "made.tar.gz").read_bytes()
    archive = Archive("https://example.org/x.tar.gz", hashlib.md5(packed).hexdigest(), "folder", ("inner/batch",))
    serve(monkeypatch, packed)
    (path,) = locate(archive)
    assert path.read_bytes() == CONTENT
