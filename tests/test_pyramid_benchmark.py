"""The benchmark of the pyramid: its rows on a few mosaics, and the page it writes."""

import json

from benchmarks.pyramid import main
from data.generate import generate


def test_each_way_is_counted(tmp_path):
    data = generate(tmp_path / "mosaics", "test", 2, kind="mosaics")
    output = tmp_path / "pyramid.json"
    assert main(["--data", str(data), "--n", "2", "--output", str(output)]) == 0
    rows = {row["method"]: row for row in json.loads(output.read_text())["rows"]}
    assert list(rows) == ["whole", "pyramid", "every tile"]
    # mosaics of 2 x 2: a tile, and those of four that hold its key tokens
    assert (rows["whole"]["tiles"], rows["every tile"]["tiles"]) == (1, 4)
    assert 2 <= rows["pyramid"]["tiles"] <= 5
    assert rows["every tile"]["pixels"] == 4 * 96**2 and rows["every tile"]["tokens"] == 4 * 144
    assert rows["whole"]["kept"] == 144 and rows["pyramid"]["kept"] <= 144
    assert output.with_suffix(".md").read_text().count("\n| ") == 4
