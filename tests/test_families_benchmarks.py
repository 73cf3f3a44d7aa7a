"""The benchmarks of speed run, in small; on a GPU the one of LLaVA-7B's shape in full."""

import json

import pytest

from benchmarks import decode_overhead, llava_7b_shape


def test_decode_overhead(tmp_path):
    output = tmp_path / "rows.json"
    sizes = ["--sides", "28", "--layers", "6", "--width", "64", "--rounds", "1", "--steps", "2"]
    decode_overhead.main(["--output", str(output), *sizes])
    rows = json.loads(output.read_text())["rows"]
    assert [row["visual_tokens"] for row in rows] == [4] * 4
    assert rows[0]["ratio_to_the_model_alone"] == 1.0
    assert all(row["milliseconds_per_step"] > 0 for row in rows)


SMALL = ["--layers", "6", "--width", "256", "--repeats", "1", "--steps", "2"]


@pytest.mark.parametrize(
    "options, tolerance",
    [
        ([*SMALL, "--device", "cpu", "--dtype", "float32"], 1e-5),
        pytest.param(["--device", "cuda"], 0.05, marks=pytest.mark.gpu),
    ],
    ids=["small", "7B"],
)
def test_the_shape_of_llava_7b(tmp_path, options, tolerance):
    output = tmp_path / "rows.json"
    llava_7b_shape.main(["--output", str(output), *options])
    report = json.loads(output.read_text())
    full, pruned = report["rows"].values()
    assert pruned["cache_mib"] < 0.5 * full["cache_mib"]
    assert report["parity"] < tolerance < report["effect"]
