"""The benchmark of decode steps runs, in small."""

import json

from benchmarks import decode_overhead


def test_decode_overhead(tmp_path):
    output = tmp_path / "rows.json"
    sizes = ["--sides", "28", "--layers", "6", "--width", "64", "--rounds", "1", "--steps", "2"]
    decode_overhead.main(["--output", str(output), *sizes])
    rows = json.loads(output.read_text())["rows"]
    assert [row["visual_tokens"] for row in rows] == [4] * 4
    assert rows[0]["ratio_to_the_model_alone"] == 1.0
    assert all(row["milliseconds_per_step"] > 0 for row in rows)
