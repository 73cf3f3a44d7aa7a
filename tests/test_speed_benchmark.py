"""The benchmark of prefills: what it measures is there, and memory is what the plan says."""

import json
import sys

import pytest

from benchmarks import speed


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    output = tmp_path_factory.mktemp("speed") / "found.json"
    arguments = ["speed", "--model", "data/tiny-vlm", "--repeats", "1", "--steps", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*arguments, "--output", str(output)])
        speed.main()
    return output


def test_every_entrant_has_a_row_and_the_full_model_is_the_measure(found):
    rows = json.loads(found.read_text())["rows"]
    assert [row["entrant"] for row in rows] == [*speed.specs(24), speed.SHORT]
    assert rows[0]["speed-up"] == rows[0]["predicted"] == rows[0]["efficiency"] == 1.0
    assert all(row["prefill ms"] > 0 < row["decode ms"] for row in rows)


def test_the_cache_is_as_large_as_predicted_and_a_ninth_leaves_sixteen_tokens(found):
    rows = {row["entrant"]: row for row in json.loads(found.read_text())["rows"]}
    for row in rows.values():
        assert row["KV MiB"] == pytest.approx(row["KV MiB predicted"], rel=1e-9), row["entrant"]
    full, pruned = rows[speed.FULL], rows["uniform at 0"]
    per_token = 24 * 2 * 96 * 4 / 2**20
    assert full["KV MiB"] - pruned["KV MiB"] == pytest.approx((144 - 16) * per_token)
    assert rows[speed.SHORT]["KV MiB"] == pytest.approx(pruned["KV MiB"])


def test_the_page_and_the_figure_lie_beside(found):
    page = found.with_suffix(".md").read_text()
    assert "## Batch 1, 144 visual tokens" in page and "| covipal at 0 | " in page
    assert found.with_suffix(".png").stat().st_size > 1000
