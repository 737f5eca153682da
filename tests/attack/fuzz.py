"""Spoilt copies of files: bytes and JSON values, changed at random from a seed."""

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    *(None, True, -1, 0, 1e308, 10**400, 2**63, "", "x", "NaN", [], {}, [[]], {"a": {}}, "\x1b[31m", "\ud800"),
    *(float("nan"), float("inf"), "<script>alert(1)</script>", "\0", 0.5, "1e999", [1, "a"], "é" * 5000),
]


def spoilt_bytes(data: bytes, draw: random.Random) -> bytes:
    """Return other bytes: bits flipped, a piece cut out, doubled, blanked, moved, inserted, or the end lost."""
    found = bytearray(data)
    first, second = sorted(draw.randrange(len(found) + 1) for _ in range(2))
    second = min(second, first + 1 + draw.randrange(200))
    kind = draw.randrange(7)
    if kind == 0:
        for _ in range(draw.choice((1, 1, 2, 8))):
            found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    elif kind == 1:
        del found[first:second]
    elif kind == 2:
        found[first:first] = found[first:second]
    elif kind == 3:
        found[first:second] = bytes(second - first)
    elif kind == 4:
        found[first:first] = draw.randbytes(draw.choice((1, 16, 300)))
    elif kind == 5:
        del found[first:]
    else:
        found[first:second] = draw.choice((b"9" * 400, b"-1", b"nan", b"1e999", b'"', b"\xff\xfe", b"[" * 5000))
    return bytes(found)


def spoilt_json(value: Any, draw: random.Random) -> str:
    """Return JSON in which some values are odd, are missing, or are called otherwise."""
    found = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 2, 5))):
        places = list(_places(found))
        if not places:
            break
        holder, name = draw.choice(places)
        kind = draw.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            holder[f"{name}x"] = holder.pop(name)
        elif kind == 1:
            del holder[name]
        else:
            holder[name] = copy.deepcopy(draw.choice(ODD))
    text = json.dumps(found)
    return "[" * 100_000 + text if draw.randrange(40) == 0 else text


def _places(value: Any) -> Any:
    names = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        yield value, name
        yield from _places(value[name])
