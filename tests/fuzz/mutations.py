"""Seeded damage to bytes, texts and plain values, as a bad disk or a bad person does it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_DEEP: Any = 1
for _ in range(150):
    _DEEP = [_DEEP]
_HOSTILE: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**12, 10**30, 10**400,
    -(10**30),
    0.5, 1e308, float("inf"), float("-inf"), float("nan"), "", "x", "x" * 100_000, "\0", "a\0b", "../../etc/passwd",
    "/etc/passwd", ".", "..", "\ud800", "\udcff", "\x1b[2J\r\nx", "=cmd|' /C calc'!A0", "2024-13-45", "1" * 5000, [],
    {},    [[]], [None], {"a": 1}, {"a.b": {"c": 2}}, [1] * 1000, _DEEP, "train", "cpu", "9" * 300 + ".5",
]  # fmt: skip
_NUMBERS = ("-1", "0", "1e999", ".inf", ".nan", "9" * 25, "9" * 5000, "0x" + "f" * 5000, "1_000", "1:30:99", "1.0e+300",
            "2024-13-45", "99999999999", "0o17", "+5", "1e-400")  # fmt: skip
_TOKENS = ("[" * 3000, "{" * 3000, "&a [*a]", "*x", "!!python/object:os.system {}", "!!int ''", "!!binary '*'",
           "!!timestamp foo", "!!float ''", "? ", "- ", ": ", "|", ">", "%", "@", "`", "'", '"', "\0", "\x1b[31m", "\t",
           "\r", "\n", "\ufeff", "\u2028", ",", ",,,,", "<<: *a", "=1+1", "~", "null", "#", "..", "/")  # fmt: skip
_FIELDS = (b"\xff" * 8, b"\0" * 8, b"\x80" + b"\0" * 11, b"\x80" + b"\xff" * 11, b"77777777777\0", b"\xff\xff\xff\x7f",
           b"(1000000000000, 7), ", b"00000000000\0", b"\xff" * 12, b"-1")  # fmt: skip


def bytes_of(rng: random.Random, raw: bytes) -> bytes:
    """Some bytes flipped, cut, moved, doubled, or overwritten with what stands for impossible sizes."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 600) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64, 512, 4096))
        match rng.randrange(8):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data[at : at + length] = rng.randbytes(length)
            case 6:
                field = rng.choice(_FIELDS)
                data[at : at + len(field)] = field
            case _:
                data[at:at] = rng.choice(_FIELDS)
    return bytes(data)


def text_of(rng: random.Random, text: str) -> str:
    """Lines and tokens dropped, doubled or replaced by what a parser may trip over."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.split("\n")
        at = rng.randrange(len(lines))
        line = lines[at]
        position = rng.randrange(len(line) + 1)
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, line)
            case 2:
                lines[at] = line[:position] + rng.choice(_TOKENS) + line[position:]
            case 3:
                lines[at] = line[:position]
            case 4:
                head, sign, _ = line.rpartition(rng.choice((":", ",", " ")))
                lines[at] = f"{head}{sign} {rng.choice(_NUMBERS + _TOKENS)}"
            case _:
                lines[at] = rng.choice(_TOKENS)
        text = "\n".join(lines)
    return text


def values_of(rng: random.Random, values: Any) -> Any:
    """Plain values with one to three of them replaced, removed or doubled."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice((1, 1, 2, 3))):
        positions = list(_positions(values))
        if not positions:
            return values
        container, key = positions[rng.randrange(len(positions))] if rng.random() < 0.6 else rng.choice(positions[:40])
        match rng.randrange(6):
            case 0:
                del container[key]
            case 1 if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case 1 | 2 if isinstance(container, dict):
                container[rng.choice(("x", "", "a.b", "__class__", "shards"))] = container[key]
            case _:
                container[key] = copy.deepcopy(rng.choice(_HOSTILE))
    return copy.deepcopy(rng.choice(_HOSTILE)) if rng.random() < 0.03 else values


def json_of(rng: random.Random, values: Any) -> bytes:
    """JSON of changed values, or a changed text of it."""
    if rng.random() < 0.75:
        return json.dumps(values_of(rng, values)).encode()
    text = json.dumps(values, indent=1)
    return text_of(rng, text).encode("utf-8", "replace") if rng.random() < 0.5 else bytes_of(rng, text.encode())


def _positions(values: Any) -> Iterator[tuple[Any, Any]]:
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in list(items):
        yield values, key
        yield from _positions(value)
