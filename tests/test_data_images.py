"""What each mode and each storage of an image becomes: by hand, and the same from every source."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from rcp.conversations import ConversationDataset
from rcp.conversations.images import as_rgb, opened
from rcp.conversations.sample import LoadedSample
from rcp.conversations.stream import StreamedTable
from rcp.conversations.table import TableDataset

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

CLEAR, HALF = (0, 0, 0, 0), (0, 0, 0, 128)
WHITE, GREY, RED = (255, 255, 255), (127, 127, 127), (255, 0, 0)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def palette(*colours: int) -> Image.Image:
    image = Image.new("P", (2, 2), 0)
    image.putpalette(colours)
    return image


def sixteen(value: int) -> Image.Image:
    return Image.fromarray(np.full((2, 2), value, dtype=np.uint16))


FILES = {
    "RGBA in PNG": (saved(Image.new("RGBA", (2, 2), CLEAR), "PNG"), WHITE),
    "half clear": (saved(Image.new("RGBA", (2, 2), HALF), "PNG"), GREY),
    "RGBA in WEBP": (saved(Image.new("RGBA", (2, 2), CLEAR), "WEBP", lossless=True), WHITE),
    "RGBA in TIFF": (saved(Image.new("RGBA", (2, 2), CLEAR), "TIFF"), WHITE),
    "LA": (saved(Image.new("LA", (2, 2), (0, 0)), "PNG"), WHITE),
    "opaque LA": (saved(Image.new("LA", (2, 2), (9, 255)), "PNG"), (9, 9, 9)),
    "palette": (saved(palette(255, 0, 0), "PNG"), RED),
    "palette, one colour clear": (saved(palette(0, 0, 0), "PNG", transparency=0), WHITE),
    "palette with alphas": (saved(palette(0, 0, 0), "PNG", transparency=b"\x80"), GREY),
    "GIF, one colour clear": (saved(palette(0, 0, 0), "GIF", transparency=0), WHITE),
    "RGB, one colour clear": (
        saved(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3)), WHITE),
    "L, one value clear": (saved(Image.new("L", (2, 2), 7), "PNG", transparency=7), WHITE),
    "16 bits, one value clear": (saved(sixteen(5), "PNG", transparency=5), WHITE),
    "1": (saved(Image.new("1", (2, 2), 1), "PNG"), WHITE),
    "L": (saved(Image.new("L", (2, 2), 9), "JPEG"), (9, 9, 9)),
    "CMYK": (saved(Image.new("CMYK", (2, 2), (0, 0, 0, 0)), "TIFF"), WHITE),
    "CMYK in JPEG": (saved(Image.new("CMYK", (2, 2), (0, 0, 0, 255)), "JPEG"), (0, 0, 0)),
    "16 bits": (saved(sixteen(0x8012), "PNG"), (0x80,) * 3),
    "16 bits, white": (saved(sixteen(65535), "PNG"), WHITE),
    "16 bits, TIFF": (saved(sixteen(0x8012), "TIFF"), (0x80,) * 3),
    "F in TIFF": (saved(Image.new("F", (2, 2), 0.5), "TIFF"), GREY),
    "I in TIFF": (saved(Image.new("I", (2, 2), 0x4000), "TIFF"), (0x40,) * 3),
    "animated WEBP": (
        saved(Image.new("RGBA", (2, 2), CLEAR), "WEBP", save_all=True,
              append_images=[Image.new("RGBA", (2, 2), (255, 0, 0, 255))]), WHITE),
    "animated GIF": (
        saved(Image.new("RGB", (2, 2), RED), "GIF", save_all=True,
              append_images=[Image.new("RGB", (2, 2), "blue")]), RED),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_becomes_rgb_on_white(name: str, tmp_path: Path):
    content, expected = FILES[name]
    (tmp_path / "file").write_bytes(content)
    for source in (content, tmp_path / "file"):
        image = opened(source)
        assert image.mode == "RGB" and image.size == (2, 2)
        assert image.getpixel((0, 0)) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("I", [0, 65535], [0, 255]),
        ("I", [0x1234, 0x8012], [0x12, 0x80]),
        ("I", [-100, 100], [0, 255]),
        ("I", [0, 2**20], [0, 255]),
        ("F", [0.0, 0.5], [0, 127]),
        ("F", [0.0, 100.0], [0, 100]),
        ("F", [0.0, 65535.0], [0, 255]),
        ("F", [-1.0, 1.0], [0, 255]),
        ("F", [float("nan"), 1.0], [0, 255]),
        ("F", [float("inf"), float("-inf")], [255, 0]),
        ("F", [3e8, 3e8], [0, 0]),
    ],
)
def test_grey_with_more_than_8_bits_is_scaled_by_its_range(
    mode: str, values: list[float], expected: list[int]
):
    kind = np.int32 if mode == "I" else np.float32
    found = as_rgb(Image.fromarray(np.array([values], dtype=kind)))
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(v, v, v) for v in expected]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_images_are_turned_upright(orientation: int, mode: str):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image = opened(saved(Image.new(mode, (8, 4)), "PNG", exif=exif))
    assert image.size == ((8, 4) if orientation < 5 else (4, 8))


# -- storage -----------------------------------------------------------------------------------

PNG = saved(Image.new("RGBA", (6, 4), (0, 0, 200, 128)), "PNG")
STORAGES: dict[str, Any] = {
    "path": "a.png",
    "bytes": PNG,
    "struct of bytes": {"bytes": PNG, "path": None},
    "struct of a path": {"bytes": None, "path": "a.png"},
    "struct of both": {"bytes": PNG, "path": "not there.png"},
}
FIELDS = ("image", "images", "image_path")


def rows_of(stored: Any, field: str, listed: bool) -> list[dict[str, Any]]:
    """A row with the image (twice, if in a list), one without, and one with a question of its own.
    """
    plain = {"id": "c", field: [stored] if listed else stored,
             "conversations": [{"from": "human", "value": "<image>\nhow many ?"},
                               {"from": "gpt", "value": "two"}]}
    two = {"id": "a", field: [stored, stored] if listed else stored, "question": "what ?",
           "answer": "red"}
    return [two, {"id": "b", "question": "what ?", "answer": "red", field: None}, plain]


def told(items: Any) -> list[Any]:
    return [(item.sample.id, item.sample.question, item.sample.answer,
             [image.tobytes() for image in item.images]) for item in items]


def loaded(source: str) -> list[list[LoadedSample]]:
    table = StreamedTable(source)
    return [list(TableDataset(source)), [table.load(row) for row in table.rows()]]


@pytest.mark.parametrize("listed", [False, True], ids=["one", "list"])
@pytest.mark.parametrize("name", STORAGES)
def test_every_storage_gives_the_same_pixels(
    name: str, listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From JSON, JSON lines, and Parquet with and without the type Image, mapped and streamed."""
    monkeypatch.chdir(tmp_path)  # datasets looks for paths there while it saves
    (tmp_path / "a.png").write_bytes(PNG)
    expected = opened(PNG).tobytes()
    field = FIELDS[len(name) % len(FIELDS)]
    rows = rows_of(STORAGES[name], field, listed)

    def text(value: Any) -> str:
        return base64.b64encode(value).decode()

    in_json = rows_of({"bytes": PNG} if name == "bytes" else STORAGES[name], field, listed)
    (tmp_path / "rows.json").write_text(json.dumps(in_json, default=text))
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps(row, default=text) for row in in_json)
    )
    filled = [{"question": None, "answer": None, "conversations": None} | row for row in rows]
    pa.parquet.write_table(pa.Table.from_pylist(filled), tmp_path / "rows.parquet")
    kind = datasets.List(datasets.Image()) if listed else datasets.Image()
    datasets.Dataset.from_list(filled).cast_column(field, kind).save_to_disk(tmp_path / "saved")
    found = [
        *(told(ConversationDataset(tmp_path / f"rows.{kind}")) for kind in ("json", "jsonl")),
        *(told(items) for kind in ("rows.parquet", "saved")
          for items in loaded(str(tmp_path / kind))),
    ]
    count = 2 if listed else 1
    assert found[0][0] == ("a", "<image>" * count + "\nwhat ?", "red", [expected] * count)
    assert found[0][1] == ("b", "what ?", "red", [])
    assert found[0][2] == ("c", "<image>\nhow many ?", "two", [expected])
    assert all(one == found[0] for one in found)


def test_an_image_written_into_an_address_is_read(tmp_path: Path):
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what ?"}]
    rows = [{"messages": [{"role": "user", "content": content},
                          {"role": "assistant", "content": "red"}]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (item,) = ConversationDataset(tmp_path / "rows.json")
    assert item.images[0].tobytes() == opened(PNG).tobytes()
    assert item.sample.question == "<image>\nwhat ?"


def test_opening_a_table_keeps_no_bytes_of_images(tmp_path: Path):
    rows = rows_of({"bytes": PNG, "path": None}, "image", False)
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for sample in TableDataset(str(tmp_path / "rows.parquet")).samples:
        assert not any(isinstance(image, bytes) for image in sample.images)
