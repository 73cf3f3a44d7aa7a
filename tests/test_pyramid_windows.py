"""Windows of images: what they show, what is decoded for them, and how much memory they take."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rcp.errors import UserError
from rcp.pyramid import segments, windows
from rcp.pyramid.levels import Box, levels
from rcp.pyramid.windows import open_windows
from tests.huge_images import tiled_pixels, write_tiled

BOXES = [Box(0, 0, 90, 90), Box(0, 0, 16, 16), Box(13, 40, 77, 89), Box(31, 31, 34, 33)]


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [(200, 200), (12, 12), (7, 30)])
def test_tiles_show_what_the_whole_shows(tmp_path, pixels, box, size):
    tiled_pixels(tmp_path / "tiled.tif", pixels, 32)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    tiled, one = (open_windows(tmp_path / name) for name in ("tiled.tif", "whole.png"))
    with tiled, one:
        assert isinstance(one, windows.Whole) and not isinstance(tiled, windows.Whole)
        assert tiled.size == one.size == (90, 90)
        found, wanted = (np.asarray(w.read(box, size)).astype(int) for w in (tiled, one))
    assert found.shape == wanted.shape
    assert abs(found - wanted).max() <= 1  # fp32, added up in another order
    if box.width <= size[0] and box.height <= size[1]:
        assert (found == pixels[box.top:box.bottom, box.left:box.right]).all()


def test_means_by_hand(tmp_path):
    """Four pixels to one; and three to two, where the middle one belongs to both by halves."""
    grey = np.array([[0, 8, 20], [4, 12, 20], [4, 12, 20]], dtype=np.uint8)
    tiled_pixels(tmp_path / "x.tif", np.repeat(grey[..., None], 3, axis=2), 16)
    with open_windows(tmp_path / "x.tif") as image:
        assert np.asarray(image.read(Box(0, 0, 2, 2), (1, 1)))[..., 0].tolist() == [[6]]
        row = np.asarray(image.read(Box(0, 1, 3, 3), (2, 1)))[0, :, 0].tolist()
    assert row == [round((4 + 12 / 2) / 1.5), round((12 / 2 + 20) / 1.5)]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16", "LA"])
@pytest.mark.parametrize("compression", [None, "tiff_deflate"])
def test_every_way_of_storing_shows_the_same(tmp_path, pixels, mode, compression):
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
        if mode in ("RGBA", "LA"):
            image.putalpha(Image.fromarray(pixels[..., 1]))
    image.save(tmp_path / "x.tif", compression=compression)
    with open_windows(tmp_path / "x.tif") as found:
        assert isinstance(found, windows.Whole) == (compression is not None)
        shown = np.asarray(found.read(Box(5, 6, 70, 80), (90, 90)))
    wanted = windows.as_rgb(image).crop((5, 6, 70, 80))
    assert (shown == np.asarray(wanted)).all()


def test_a_picture_on_its_side_is_turned(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:40]).save(tmp_path / "x.tif", exif=exif)
    with open_windows(tmp_path / "x.tif") as image:
        assert image.size == (40, 90)


def test_of_sixteen_bits_the_upper_ones_show(tmp_path):
    pixels = np.arange(3 * 16 * 16, dtype="<u2").reshape(16, 16, 3) * 80
    write_tiled(tmp_path / "x.tif", 16, 16, lambda row, column: pixels.tobytes(), bits=16)
    with open_windows(tmp_path / "x.tif") as image:
        assert not isinstance(image, windows.Whole)
        assert (np.asarray(image.read(Box(0, 0, 16, 16), (16, 16))) == pixels >> 8).all()


def test_rows_of_one_large_strip_are_decoded_few_at_a_time(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(segments, "AT_ONCE", 200)
    Image.fromarray(pixels).save(tmp_path / "x.tif", strip_size=2**20)
    with open_windows(tmp_path / "x.tif") as image:
        seen = image.read(Box(10, 11, 60, 70), (90, 90))
        assert (np.asarray(seen) == pixels[11:70, 10:60]).all()
        assert image.pixels_read == 90 * 59


def test_only_what_a_window_touches_is_decoded(tmp_path, pixels):
    tiled_pixels(tmp_path / "x.tif", pixels, 32)
    with open_windows(tmp_path / "x.tif") as image:
        image.read(Box(0, 0, 32, 32), (8, 8))
        assert image.pixels_read == 32 * 32
        image.read(Box(31, 40, 33, 44), (8, 8))  # of two tiles four rows each
        assert image.pixels_read == 32 * 32 + 2 * 4 * 32


def test_a_file_that_is_cut_off_says_so(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "x.tif")
    whole = (tmp_path / "x.tif").read_bytes()
    with Image.open(tmp_path / "x.tif") as image:
        start = image.tile[0].offset
    (tmp_path / "x.tif").write_bytes(whole[: start + 5000])
    with open_windows(tmp_path / "x.tif") as cut, pytest.raises(UserError, match="anew"):
        cut.read(Box(0, 0, 90, 90), (8, 8))


def test_a_false_width_asks_for_nothing(tmp_path):
    write_tiled(tmp_path / "x.tif", 2**30, 2**30 - 16, lambda row, column: b"few pixels")
    with open_windows(tmp_path / "x.tif") as image, pytest.raises(UserError, match="ends at byte"):
        image.read(Box(0, 0, 8, 8), (8, 8))


@pytest.mark.parametrize("content", [b"", b"text", b"II*\0", b"II*\0\x08\0\0\0\xff\xff"])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as an image"):
        open_windows(tmp_path / "x.tif")
    with pytest.raises(UserError, match="cannot be read as an image"):
        open_windows(tmp_path / "nothing.tif")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.tif"])
def test_what_must_be_decoded_whole_is_refused_when_large(tmp_path, pixels, monkeypatch, name):
    monkeypatch.setattr(windows, "LARGEST_WHOLE", 90 * 90 - 1)
    options = {"compression": "tiff_lzw"} if name == "x.tif" else {}
    Image.fromarray(pixels).save(tmp_path / name, **options)
    with pytest.raises(UserError, match="gdal_translate"):
        open_windows(tmp_path / name)


def peak():
    """MiB that this process has had at most since it was told to forget, and has now."""
    facts = Path("/proc/self/status").read_text()
    return [int(re.search(rf"{name}:\s+(\d+) kB", facts)[1]) / 1024 for name in ("VmHWM", "VmRSS")]


def reading(path, level, tiles):
    """MiB that reading takes at most, pixels decoded, the last colour seen."""
    pyramid = levels(20_000, 20_000, 336, 3)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not measure the memory of a part of a process")
    _, before = peak()
    with open_windows(path) as image:
        for tile in pyramid[level].tiles[:tiles]:
            seen = image.read(pyramid[level].box(tile), (336, 336))
        corner = seen.getpixel((seen.width - 1, seen.height - 1))
        return peak()[0] - before, image.pixels_read, *corner


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """20 000 x 20 000 pixels, 1.1 GiB in RGB, in a file of 1 MiB; the lower right is red."""
    path = tmp_path_factory.mktemp("huge") / "huge.tif"
    grey, red = bytes([90]) * (512 * 512 * 3), bytes([200, 10, 10]) * (512 * 512)
    write_tiled(path, 20_000, 512, lambda row, column: red if row == column == 39 else grey)
    assert path.stat().st_size < 2**21
    return path


def test_a_tile_of_a_huge_image_takes_little_memory(huge):
    added, read, *colour = reading(huge, -1, 3)
    assert added < 64 and read < 10 * 512 * 512 and colour == [90, 90, 90]


@pytest.mark.slow  # all 400 million pixels are read, once
def test_the_coarsest_level_of_a_huge_image_takes_little_memory(huge):
    added, read, *colour = reading(huge, 0, 16)
    assert added < 64 and read < 1.2 * 20_000**2 and colour == [200, 10, 10]
