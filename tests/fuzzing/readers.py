"""Every reader of files that the lab has: whole files, how they are damaged, and what reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from unittest import mock

import feedalign as fa
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.clicks.row_encoder import RowEncoder
from feedalign_lab.clicks.scoring import load_scorer
from feedalign_lab.clicks.sources import load_log
from feedalign_lab.clicks.store import sealed, stored
from feedalign_lab.data import idx, location
from feedalign_lab.data.cifar import read_batch
from feedalign_lab.data.series import read_pool
from feedalign_lab.errors import CheckpointError
from feedalign_lab.language.corpus import load_corpus
from feedalign_lab.language.saved import load_transformer
from feedalign_lab.language.tokenizer import encode, load_tokenizer
from feedalign_lab.papers.figures import read_drawing
from feedalign_lab.papers.store import TrialStore
from feedalign_lab.results import ResultsFolder
from fuzzing import seeds
from fuzzing.mutations import Damage, compressed, of_bytes, of_json
from fuzzing.trials import Reader

# Pickles that would run something, ask for a lot of memory or refer to what is not there.
_HOSTILE = (
    b"cposix\nsystem\n(S'true'\ntR.", b"c__builtin__\neval\n(S'1'\ntR.", b"cbuiltins\nexec\n(S'1'\ntR", b"\x93",
    b"\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R", b"(S'true'\niposix\nsystem\n.", b"cos\nputenv\n", b"P1\n.",
    b"r\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\x01\x00\x00\x00", b"\x96\xff\xff\xff\xff\x01\x00\x00\x00", b"Q", b"b",
    b"cnumpy\nndarray\n(I99999999999\ntR", b"cnumpy\ndtype\n(S'O8'\ntR", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"p999999999\n", b"\x82\x01", b"\x84\x01\x00\x00\x00", b"(" * 3000, b"]" * 3000, b"R", b"0", b"2", b"\x81", b"\x92",
)  # fmt: skip


def _click_log(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        return load_log(name.replace("FOLDER", str(folder)))

    return read


def _idx(folder: Path) -> object:
    return idx.read_image_part(folder / "images.gz", folder / "labels.gz")


def _ts(folder: Path) -> object:
    return read_pool(folder / "train.ts", folder / "test.ts")


def _cifar(folder: Path) -> object:
    return read_batch(folder / "batch", b"labels", 10)


def _encoder(folder: Path) -> object:
    encoder = RowEncoder.load(folder / "encoder.json")
    return encoder.encode([{"age": "30", "city": "Ulm", "income": "1.5"}])


def _cached_log(folder: Path) -> object:
    """Facts that were changed tell the times of the files and have the right sum, so that more than these is read."""
    path = folder / "facts.json"
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts.pop("sum")
        facts["times"] = {one.name: one.stat().st_mtime_ns for one in folder.iterdir()}
        path.write_text(sealed(facts), encoding="utf-8")
    found = stored(folder)
    return found and [part.read(0, 5) for part in found[1].values()]


def _scorer(folder: Path) -> object:
    return load_scorer(folder).probabilities([{"age": "30", "city": "Ulm", "income": "1.5"}])


def _results(folder: Path) -> object:
    opened = ResultsFolder.open(folder, overwrite=True)
    opened.remove_result_files()
    return opened


def _records(folder: Path) -> object:
    return TrialStore(folder).read("made", "t")


def _drawing(folder: Path) -> object:
    return read_drawing(folder / "f.json")


def _tokenizer(folder: Path) -> object:
    return encode(load_tokenizer(folder / "tokenizer.json"), "the cat")


def _transformer(folder: Path) -> object:
    return load_transformer(folder / "weights.pt")


def _text(folder: Path) -> object:
    return load_corpus(str(folder / "one.txt")), load_corpus(str(folder / "split"))


def _planetoid(folder: Path) -> object:
    from feedalign_lab.graphs.planetoid import load_planetoid

    with mock.patch.object(location, "named_roots", return_value=[folder]):
        return load_planetoid("pubmed")


def _graph(folder: Path) -> object:
    from feedalign_lab.graphs.folder import load_folder

    return load_folder(folder, "graph:made")


def _blender(folder: Path) -> object:
    from feedalign_lab.scenes.blender import load_blender

    return load_blender("made", folder, 2)


def _llff(folder: Path) -> object:
    from feedalign_lab.scenes.llff import load_llff

    return load_llff("made", folder)


def _monitor(folder: Path) -> object:
    return fa.measure.read_records(folder)


def _checkpoint(folder: Path) -> object:
    said: list[str] = []
    found = Checkpoints(folder / "training.feedalign-checkpoint", {"rule": "dfa"}, said.append).newest()
    if found is None and said:
        raise CheckpointError(said[0])
    return found


_PICKLE = of_bytes(*_HOSTILE)
_TEXT = of_bytes(b",", b"\t", b'"', b"\n", b"\r", b"\x00", b"?", b"#", b"\xff", b":", b";", b" " * 9)
_TS = of_bytes(
    b"@data\n", b"@timeStamps true\n", b"@univariate true\n", b"@classLabel true\n", b":", b",", b"?", b"NaN"
)
_TOML = of_bytes(b"= ", b"[fields]\n", b"'''", b"1979-05-27", b"[[a]]\n", b"[" * 3000, b"label = {a=1}\n", b'"\\uD800"')
_PICTURE = of_bytes(
    b"IHDR", b"IDAT", b"PLTE", b"tRNS\x00", b"acTL", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\x00", b"%!PS"
)
_NPY = of_bytes(b"'|O'", b"'<U9'", b"(10, 17)", b"(99999999999,)", b"True", b"'descr'", b"'<f16'", b"}", b"(" * 300)
_ZIP = of_bytes(
    *_HOSTILE, b"PK\x03\x04", b"PK\x05\x06", b"data.pkl", b"../../x", b"ctorch._utils\n_rebuild_tensor_v2\n"
)


def _with_right_sum(damage: Damage) -> Damage:
    """Damage what is behind the first line of a checkpoint, as somebody would who makes its sum right again."""

    def damaged(content: bytes, draw: Random) -> bytes:
        rest = damage(content[content.index(b"\n") + 1 :], draw)
        return b"feedalign checkpoint 1 " + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest

    return damaged


READERS: tuple[Reader, ...] = (
    Reader("checkpoint", seeds.write_checkpoints, _checkpoint, {"*": of_bytes(b"checkpoint 2 ")}, 2),
    Reader("checkpoint, sum right", seeds.write_checkpoints, _checkpoint, {"*": _with_right_sum(_ZIP)}, 1),
    Reader("idx", seeds.write_idx, _idx, {"*.gz": compressed(of_bytes())}, 3),
    Reader("cifar, python 2", seeds.write_cifar_of_python_2, _cifar, {"batch": _PICKLE}, 3),
    Reader("cifar, python 3", seeds.write_cifar_of_python_3, _cifar, {"batch": _PICKLE}, 3),
    Reader("ts", seeds.write_ts, _ts, {"*.ts": _TS}, 3),
    Reader("criteo", seeds.write_criteo, _click_log("criteo:FOLDER/log.txt"), {"log.txt": _TEXT}, 1),
    Reader("csv", seeds.write_csv, _click_log("clicks:FOLDER/log.csv"), {"log.csv": _TEXT}, 2),
    Reader("csv.gz", seeds.write_zipped_csv, _click_log("clicks:FOLDER/log.csv.gz"), {"*": compressed(_TEXT)}, 1),
    Reader(
        "csv with schema",
        seeds.write_csv_with_schema,
        _click_log("clicks:FOLDER/log.csv"),
        {"*.csv": _TEXT, "*.toml": _TOML},
        2,
    ),
    Reader("click encoder", seeds.write_click_results, _encoder, {"encoder.json": of_json()}, 2),
    Reader("click cache", seeds.write_click_cache, _cached_log, {"*.json": of_json(), "*": of_bytes()}, 2),
    Reader(
        "click results",
        seeds.write_click_results,
        _scorer,
        {"encoder.json": of_json(), "results.json": of_json(b"fnn"), "weights.pt": _ZIP},
        0.5,
    ),
    Reader("results", seeds.write_results, _results, {"results.json": of_json(b'"../../a"', b'"a.png"')}, 2),
    Reader("records", seeds.write_records, _records, {"*.jsonl": of_json(b"\n", b'"format": 2', is_lines=True)}, 3),
    Reader("monitor", seeds.write_monitor, _monitor, {"*.jsonl": of_json(b"\n", is_lines=True)}, 2),
    Reader("figure", seeds.write_drawing, _drawing, {"f.json": of_json()}, 3),
    Reader("tokenizer", seeds.write_tokenizer, _tokenizer, {"*.json": of_json(b"Unigram", b"WordPiece", b"Split")}, 1),
    Reader("transformer", seeds.write_transformer, _transformer, {"weights.pt": _ZIP}, 1),
    Reader("text", seeds.write_text, _text, {"*.txt": of_bytes(b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\x85")}, 2),
    Reader("planetoid", seeds.write_planetoid, _planetoid, {"*.index": of_bytes(), "*": _PICKLE}, 0.5),
    Reader("graph", seeds.write_graph, _graph, {"*.csv": _TEXT}, 2),
    Reader("blender", seeds.write_blender, _blender, {"*.json": of_json(), "*.png": _PICTURE}, 1),
    Reader("llff", seeds.write_llff, _llff, {"*.npy": _NPY, "*.png": _PICTURE}, 1),
)
