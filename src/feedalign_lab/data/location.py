"""Where data files lie: under $FEEDALIGN_DATA, else in the cache, else fetched there and checked."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from feedalign_lab.errors import CorruptFileError, MissingDataError

VARIABLE = "FEEDALIGN_DATA"
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Archive:
    """One download, and the files it gives.

    Attributes:
        url: The official address.
        md5: The official checksum of what the address serves; None where there is none, so that the files are not
            fetched but have to be put there by hand.
        folder: The data set's folder under the data root.
        files: The files, relative to `folder`: the download itself, or what a tar archive unpacks to.
    """

    url: str
    md5: str | None
    folder: str
    files: tuple[str, ...]

    @property
    def is_tar(self) -> bool:
        """Whether the download is a tar archive, which has to be unpacked."""
        return self.url.endswith(".tar.gz")

    @property
    def has_to_be_unpacked(self) -> bool:
        """Whether the files are not the download itself."""
        return self.is_tar or self.url.endswith(".zip")


def cache_root() -> Path:
    """The cache folder of this user, the same that pooch would choose; it need not exist."""
    import pooch

    return Path(pooch.os_cache("feedalign"))


def named_roots() -> list[Path]:
    """The folder that the variable names; nothing where it is not set."""
    named = os.environ.get(VARIABLE)
    return [Path(named).expanduser()] if named else []


def locate(archive: Archive) -> list[Path]:
    """Paths of an archive's files, fetching the archive when no folder has them all.

    Args:
        archive: The download and its files.

    Returns:
        One path per entry of `archive.files`.

    Raises:
        MissingDataError: They are nowhere and cannot be fetched.
    """
    roots, cache = named_roots(), cache_root()
    for root in [*roots, cache]:
        paths = [root / archive.folder / name for name in archive.files]
        if all(path.is_file() for path in paths):
            return paths
    if archive.md5 is None:
        raise MissingDataError(_missing_sentence(archive, cache / archive.folder, roots))
    _fetch(archive, cache / archive.folder, looked_in=roots)
    return [cache / archive.folder / name for name in archive.files]


def _fetch(archive: Archive, folder: Path, looked_in: Sequence[Path]) -> None:
    """Download into `folder` and check; every way this can fail ends in one sentence."""
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(
            archive.url,
            known_hash=f"md5:{archive.md5}",
            fname=archive.url.rsplit("/", 1)[-1],
            path=folder,
            processor=pooch.Untar(extract_dir=".") if archive.is_tar else None,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_SECONDS),
        )
    except ValueError as error:
        if "hash" not in str(error):
            raise MissingDataError(_missing_sentence(archive, folder, looked_in, error)) from error
        raise CorruptFileError(
            f"What {archive.url} served fails its checksum (md5 {archive.md5} expected): try again later, "
            f"or put the file into {folder} by hand."
        ) from error
    except (OSError, RuntimeError) as error:
        raise MissingDataError(_missing_sentence(archive, folder, looked_in, error)) from error


def _missing_sentence(archive: Archive, folder: Path, looked_in: Sequence[Path], error: Exception | None = None) -> str:
    """The one sentence that names the file, the folders, the variable and the address."""
    places = [str(root / archive.folder) for root in looked_in] + [str(folder)]
    state = "" if looked_in else f" ({VARIABLE} is not set)"
    by_hand = "download and unpack it there" if archive.has_to_be_unpacked else "download it there"
    reason = (
        "is not fetched by itself, because its publisher gives no checksum"
        if error is None
        else f"could not be fetched ({type(error).__name__})"
    )
    return (
        f"No {archive.files[0]} in {' nor in '.join(places)}{state}, and {archive.url} {reason}: "
        f"{by_hand} yourself, or set {VARIABLE} to a folder that holds {archive.folder}/."
    )
