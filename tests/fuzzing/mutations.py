"""Ways to damage a file, each a function of its bytes and of a generator of random numbers."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

Damage = Callable[[bytes, Random], bytes]

_LARGEST_COPY = 4096
_NUMBERS = (b"0", b"-1", b"1e400", b"nan", b"-inf", b"9" * 30, b"4294967295", b"18446744073709551616", b"1_0", b"0x10")
_GARBAGE = ("\ufeff", "\u202e\u0000", "\ud7ff\ue000", "\u00e9\u0301", "٣", "\x1b[2J", "\u2028", "😀" * 3)
# Sizes as binary headers have them.
_SIZES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
_NODES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, float("nan"), float("inf"), 1e308, 2**31, 2**63, 10**400, "", "x", "\u0000", "../..",
    "/etc/passwd", "\ud800", "a" * 300, [], {}, [[]], [None], {"": None}, list(range(50)),
)  # fmt: skip


def of_bytes(*tokens: bytes) -> Damage:
    """Damage whatever a file is.

    Args:
        tokens: Pieces that mean something to its reader, put in at random places.
    """

    def damage(content: bytes, draw: Random) -> bytes:
        for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
            content = draw.choice(_WAYS)(content, draw, tokens)
        return content

    return damage


def of_json(*tokens: bytes, is_lines: bool = False) -> Damage:
    """Damage what a JSON text says, more often than the text itself.

    Args:
        tokens: As for `of_bytes`.
        is_lines: Whether each line is a text of its own.
    """
    in_text = of_bytes(b"[" * 5000, b'{"a":' * 5000, b"NaN", b'"\\ud800"', b"1e999", b"9" * 5000, *tokens)

    def damage(content: bytes, draw: Random) -> bytes:
        if draw.random() < 0.3:
            return in_text(content, draw)
        lines = content.split(b"\n") if is_lines else [content]
        place = draw.choice([number for number, line in enumerate(lines) if line.strip()])
        tree = json.loads(lines[place])
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            tree = _node_damaged(tree, draw)
        lines[place] = json.dumps(tree).encode()
        return b"\n".join(lines)

    return damage


def compressed(inside: Damage) -> Damage:
    """Damage what a gzip file holds, more often than the file itself.

    Args:
        inside: What to do to the content.
    """
    outside = of_bytes(b"\x1f\x8b\x08\x00")

    def damage(content: bytes, draw: Random) -> bytes:
        way = draw.random()
        if way < 0.25:
            return outside(content, draw)
        if way < 0.3:
            return gzip.decompress(content)
        held = inside(gzip.decompress(content), draw)
        if way < 0.33:
            held += bytes(2**26 if draw.random() < 0.1 else 2**18)
        again = gzip.compress(held, 1)
        return again + again if way < 0.36 else again

    return damage


def _flip(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Turn bits over."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if damaged else 0):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def _cut(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Lose the end, the beginning or a piece."""
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return draw.choice((content[:start], content[stop:], content[:start] + content[stop:]))


def _insert(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Put in bytes that were not there."""
    place = draw.randrange(len(content) + 1)
    piece = draw.choice((draw.randbytes(draw.choice((1, 4, 40))), *tokens, draw.choice(_GARBAGE).encode()))
    return content[:place] + piece + content[place + draw.choice((0, 0, len(piece))) :]


def _zero(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Turn a piece to zeros, as of a file whose end never reached the disk."""
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + bytes(stop - start) + content[stop:]


def _repeat(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Have a piece twice or more."""
    start = draw.randrange(len(content) + 1)
    piece = content[start : start + draw.randrange(_LARGEST_COPY)]
    return content[:start] + piece * draw.choice((2, 2, 3, 9)) + content[start + len(piece) :]


def _swap_lines(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Exchange two lines."""
    lines = content.splitlines(keepends=True) or [b""]
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _write_number(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Put another number in the place of one that is written out."""
    places = [number for number, byte in enumerate(content[:_LARGEST_COPY]) if 48 <= byte <= 57]
    if not places:
        return _write_size(content, draw, tokens)
    place = draw.choice(places)
    return content[:place] + draw.choice(_NUMBERS) + content[place + 1 :]


def _write_size(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Put another number in the place of a binary one, most often in the header."""
    end = draw.choice((16, 16, 64, len(content) + 1))
    place, width = draw.randrange(min(end, len(content) + 1)), draw.choice((1, 2, 4, 8))
    size = (draw.choice(_SIZES) & (256**width - 1)).to_bytes(width, draw.choice(("big", "little")))
    return content[:place] + size + content[place + width :]


def _empty(content: bytes, draw: Random, tokens: Sequence[bytes]) -> bytes:
    """Leave nothing, or next to nothing."""
    return draw.choice((b"", b"\n", b"\x00", b"\xff\xfe", b" " * 100))


_WAYS = (_flip, _flip, _cut, _insert, _insert, _zero, _repeat, _swap_lines, _write_number, _write_size)
_WAYS = (*_WAYS, *_WAYS, _empty)


def _node_damaged(tree: Any, draw: Random) -> Any:
    """Change one node of a tree, found by going down at random."""
    is_inside = isinstance(tree, dict | list) and bool(tree)
    if not is_inside or draw.random() < 0.08:
        return copy.deepcopy(draw.choice(_NODES))
    key = draw.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    way = draw.random()
    if way < 0.1:
        del tree[key]
    elif way < 0.15 and isinstance(tree, dict):
        tree[draw.choice(("", "x", str(key).upper()))] = copy.deepcopy(tree[key])
    elif way < 0.15:
        tree.append(copy.deepcopy(tree[key]))
    elif way < 0.25:
        tree[key] = copy.deepcopy(draw.choice(_NODES))
    else:
        tree[key] = _node_damaged(tree[key], draw)
    return tree
