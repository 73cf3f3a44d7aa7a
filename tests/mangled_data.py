"""Data files and images with something wrong in them, made from a seed."""

import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
ODD: tuple[Any, ...] = (
    None, 5, -1, 2.5, True, "", " ", [], {}, [None], [[]], {"a": 1}, "x" * 3000, "a\0b\x1b[31m",
    "\ud83d", "é\u202e\u2028", [[[[[[[]]]]]]], "<image>", "NaN", 10**30, ["<image>", "two"],
    {"bytes": None, "path": None}, {"bytes": "!!", "path": None}, {"path": ""}, "http://a/b.png",
    "<|pad|>", "../", "/dev/null", "images", [5], {"from": "human"}, {"role": 5, "content": []},
)


def image_bytes(draw: random.Random) -> bytes:
    """A picture of any mode and kind, four in ten of them damaged."""
    mode = draw.choice(MODES)
    size = draw.choice([(1, 1), (7, 5), (20, 24), (801, 4), (4, 900), (33, 2)])
    kinds = ["PNG", "TIFF"] if mode not in ("F", "CMYK") else ["TIFF"]
    kinds += ["JPEG"] if mode in ("L", "RGB", "CMYK") else []
    kinds += ["GIF", "WEBP"] if mode in ("RGB", "RGBA") else []
    file = io.BytesIO()
    options: dict[str, Any] = {}
    if draw.random() < 0.1:
        options["exif"] = b"Exif\0\0" + draw.choice([draw.randbytes(30), b"MM\0*\0\0\0\x08"])
    try:
        Image.new(mode, size).save(file, draw.choice(kinds), **options)
    except (OSError, ValueError, SyntaxError):  # not every kind holds every mode, or bad EXIF
        return draw.randbytes(50)
    return damaged(draw, file.getvalue()) if draw.random() < 0.4 else file.getvalue()


def damaged(draw: random.Random, content: bytes) -> bytes:
    """``content`` cut short, with bytes changed, or something else altogether."""
    kind = draw.randrange(5)
    if kind == 0:
        return content[: draw.randrange(len(content) + 1)]
    if kind == 1:
        return draw.randbytes(draw.randrange(60))
    if kind == 2:
        return b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    changed = bytearray(content)
    for _ in range(draw.randrange(1, 6)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def write_images(draw: random.Random, folder: Path) -> list[str]:
    """Four files that may be pictures, and two names of none."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"images/{number}.png" for number in range(4)]
    for name in names:
        (folder / name).write_bytes(image_bytes(draw))
    return [*names, "images/gone.png", "images"]


def row(
    draw: random.Random, number: int, images: list[str], layout: int | None = None
) -> dict[str, Any]:
    """A sound row of any layout, but for its images; then, every other time, something odd."""
    found: dict[str, Any] = {"id": draw.choice([f"row-{number}", f"row-{number}", "same", number])}
    shown = [draw.choice(images) for _ in range(draw.choice([0, 1, 1, 1, 2]))]
    placed = "<image>" * len(shown) + "\nhow many ?"
    layout = draw.randrange(5) if layout is None else layout
    if layout == 0:
        found["conversations"] = [{"from": "human", "value": placed},
                                  {"from": "gpt", "value": "two"}]
    elif layout == 1:
        found["messages"] = [{"role": "user", "content": placed},
                             {"role": "assistant", "content": "two"}]
    elif layout == 2:
        found["texts"] = [{"user": "how many ?", "assistant": "two"}]
    elif layout == 3:
        found |= {"question": "how many ?", "answer": "two"}
    else:
        parts = [{"type": "image", "image": image} for image in shown]
        found["messages"] = [
            {"role": "user", "content": [*parts, {"type": "text", "text": "how many ?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "two"}]},
        ]
    if layout != 4 and shown:
        field = draw.choice(["image", "images", "image_path"])
        found[field] = shown if len(shown) > 1 or field == "images" else shown[0]
    for _ in range(draw.choice([0, 0, 1, 2])):
        found = odd(draw, found)
    return found


def odd(draw: random.Random, found: dict[str, Any]) -> dict[str, Any]:
    """``found`` with one thing changed, somewhere in it."""
    text = json.dumps(found)
    kind = draw.randrange(6)
    if kind == 0:
        return found | {draw.choice(list(found)): draw.choice(ODD)}
    if kind == 1:
        return found | {draw.choice(["image", "images", "picture", "video", "question_type",
                                     "conversations", "answers"]): draw.choice(ODD)}
    if kind == 2:
        gone = draw.choice(list(found))
        return {name: value for name, value in found.items() if name != gone}
    old, new = draw.choice([
        ("two", "two <image>"), ("<image>", ""), ("<image>", "<image><image>"), ("human", "gpt"),
        ("user", "system"), ("assistant", "tool"), ("how many ?", "how <|pad|> ?"),
        ("how many ?", "how " * 60), ("two", ""), ("gpt", "human"), ("image", "img"),
        ("value", "text"), ("how many ?", "\\ud83d"), ("from", "role"),
    ])
    return json.loads(text.replace(old, new, draw.choice([1, -1])))


def write_rows(draw: random.Random, folder: Path) -> Path:
    """A JSON file, or one of lines, of up to six rows; now and then its bytes are damaged."""
    images = write_images(draw, folder)
    rows: list[Any] = [row(draw, number, images) for number in range(draw.randrange(1, 7))]
    if draw.random() < 0.2:
        rows[draw.randrange(len(rows))] = draw.choice(ODD)
    lines = draw.random() < 0.5
    path = folder / ("rows.jsonl" if lines else "rows.json")
    content = ("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows)).encode()
    if draw.random() < 0.15:
        content = b"\xef\xbb\xbf" + content
    path.write_bytes(damaged(draw, content) if draw.random() < 0.15 else content)
    return path
