"""The benchmarks of decode steps and of selection run, in small."""

import json

from benchmarks import decode_overhead, selection


def test_decode_overhead(tmp_path):
    output = tmp_path / "rows.json"
    sizes = ["--sides", "28", "--layers", "6", "--width", "64", "--rounds", "1", "--steps", "2"]
    decode_overhead.main(["--output", str(output), *sizes])
    rows = json.loads(output.read_text())["rows"]
    assert [row["visual_tokens"] for row in rows] == [4] * 4
    assert rows[0]["ratio_to_the_model_alone"] == 1.0
    assert all(row["milliseconds_per_step"] > 0 for row in rows)


def test_selection(tmp_path):
    output = tmp_path / "rows.json"
    sizes = ["--side", "84", "--layers", "2", "--width", "64", "--rounds", "1"]
    selection.main(["--output", str(output), "--methods", "uniform", "divprune", *sizes])
    rows = json.loads(output.read_text())["rows"]
    found = [(row["visual_tokens"], row["kept"], row["method"]) for row in rows]
    assert found == [
        (36, 4, "uniform"), (36, 4, "divprune"), (180, 40, "uniform"), (180, 40, "divprune")
    ]
    assert all(0 < row["share"] < 1 and row["select_ms"] < row["prefill_ms"] for row in rows)
