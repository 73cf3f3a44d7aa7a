"""What a report says of an evaluation's files: pairs, survivors, times, charts, and refusals."""

import base64
import io
import json
import math

import pyarrow as pa
import pytest
from PIL import Image

from rcp import UserError
from rcp.evaluation.report.page import charts, gallery
from rcp.evaluation.report.page.answers import pairs
from rcp.evaluation.report.page.pictures import SIDE, data_uri
from rcp.evaluation.report.page.results import read_results
from rcp.evaluation.report.page.sections import across, sections
from rcp.evaluation.report.page.times import times_of
from rcp.evaluation.report.rows import read_rows, write_rows
from rcp.evaluation.report.samples import SAMPLES
from rcp.evaluation.report.shift import read_diagnosis
from tests.evaluation_files import (
    KEPT,
    STAGES,
    TOKENS,
    answer,
    answers,
    diagnosis,
    rows,
    write_evaluation,
    write_table,
)


@pytest.fixture
def path(tmp_path):
    return write_evaluation(tmp_path / "run")


def read_back(folder, lines, **about):
    return read_results(write_evaluation(folder, lines, about))


def test_what_lost_most_comes_first_then_rewordings_then_gains(path):
    found = pairs(read_results(path).answers, "full", "rcp")
    assert [pair.index for pair in found[:9]] == [3, 13, 23, 7, 17, 27, 4, 14, 24]
    outcomes = [pair.outcome for pair in found]
    assert outcomes[:9] == ["lost"] * 3 + ["reworded"] * 3 + ["gained"] * 3
    assert outcomes[9:] == ["same"] * 21 and len(found) == 30
    assert (found[0].full, found[0].other, found[0].full_score) == ("red", "two", 1.0)


def test_of_partial_scores_the_largest_loss_is_first(tmp_path):
    lines = [answer(who, 0, n) for who in ("full", "rcp") for n in range(3)]
    for line, score in zip(lines, (1.0, 0.6, 1.0, 0.7, 0.0, 0.9)):
        line["score"] = score
    found = pairs(read_back(tmp_path, lines).answers, "full", "rcp")
    assert [pair.index for pair in found] == [1, 0, 2]


def test_only_what_both_have_answered_is_compared_by_the_first_seed(tmp_path):
    lines = [answer("full", 0, n) for n in range(4)]
    lines += [answer("rcp", seed, n) | {"answer": str(seed)} for seed in (7, 5) for n in (1, 2)]
    found = pairs(read_back(tmp_path, lines).answers, "full", "rcp")
    assert [(pair.index, pair.other) for pair in found] == [(1, "5"), (2, "5")]


def test_spaces_around_an_answer_change_nothing(tmp_path):
    lines = [answer("full", 0, 0), answer("rcp", 0, 0) | {"answer": " red\n"}]
    (pair,) = pairs(read_back(tmp_path, lines).answers, "full", "rcp")
    assert not pair.changed and pair.outcome == "same"


def test_survivors_are_counted_by_the_stages_they_pass(path):
    found = gallery.gallery(read_results(path))
    rcp = next(one for one in found["contestants"] if one["name"] == "rcp")
    one = rcp["answers"][0]
    first, second = KEPT["rcp"]
    assert one["layers"] == list(STAGES)
    assert one["survived"] == [(n in first) + (n in second) for n in range(TOKENS)]
    blank = next(one for one in found["contestants"] if one["name"] == "blank_image")
    assert blank["answers"][0]["survived"] == [] == blank["answers"][0]["layers"]
    (grid,) = found["grids"]  # all samples have the same
    assert grid[0]["y"][:5] == [-0.75] * 4 + [-0.25] and grid[0]["x"][1] == -0.25
    assert grid[0]["height"] == grid[0]["width"] == 0.5
    assert grid[0]["tokens"] == list(range(TOKENS))


def test_a_stage_that_keeps_nothing_leaves_nothing(tmp_path):
    lines = [answer("full", 0, 0), answer("rcp", 0, 0) | {"kept": [[2], []]}]
    found = gallery.gallery(read_back(tmp_path, lines))
    one = found["contestants"][0]["answers"][0]
    assert sum(one["survived"]) == 1 and one["survived"][2] == 1 and one["layers"] == [1, 3]


def test_tokens_of_two_images_and_without_a_place(tmp_path):
    seen = {"places": [[0.0, -0.5], [0.0, 0.5], [math.nan, math.nan], [0.5, 0.5]],
            "image_index": [0, 0, 0, 1], "visual_tokens": 4, "image": ["images/0.png"] * 2}
    lines = [answer("full", 0, 0) | seen,
             answer("rcp", 0, 0) | {"visual_tokens": 4, "kept": [[0, 3], [3]]}]
    found = gallery.gallery(read_back(tmp_path, lines))
    first, second = found["grids"][0]
    assert first["tokens"] == [0, 1] and second["tokens"] == [3]
    assert (first["width"], first["height"]) == (1.0, 2.0)
    assert len(found["images"][0]) == 2


def test_how_many_samples_are_shown_is_bounded(tmp_path):
    lines = [answer(who, 0, 10 * n + 3) for who in ("full", "rcp") for n in range(50)]
    lines += [answer(who, 0, 10 * n) for who in ("full", "rcp") for n in range(50)]
    results = read_back(tmp_path, lines)
    found, again = gallery.gallery(results), gallery.gallery(results)
    assert len(found["samples"]) == 60 and found["changed_shown"] == 40 and found["changed"] == 50
    assert found["answered"] == 100
    assert [one["id"] for one in found["samples"][:3]] == ["sample-3", "sample-13", "sample-23"]
    assert found["samples"] == again["samples"]  # the draw is the same each time


def test_answers_of_others_are_not_shown(tmp_path):
    """A file of answers that belongs to other rows, or to none."""
    assert gallery.gallery(read_back(tmp_path, [answer("full", 0, 0)])) is None
    assert gallery.gallery(read_back(tmp_path, [answer("rcp", 0, 0)])) is None
    assert gallery.gallery(read_back(tmp_path, [])) is None
    assert sections(read_back(tmp_path, [])).changes == []


def test_a_video_shows_its_first_frames(tmp_path):
    lines = [answer(who, 0, 0) | {"image": ["images/1.png"] * 30} for who in ("full", "rcp")]
    found = gallery.gallery(read_back(tmp_path, lines))
    assert len(found["images"][0]) == 8 and found["samples"][0]["more_images"] == 22


def test_spacing_is_the_finest_there_is():
    assert gallery.spacing([-0.75, -0.25, 0.25, 0.75, 0.0]) == 0.25
    assert gallery.spacing([0.0, 0.0]) == gallery.spacing([]) == 2.0


def decoded(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_are_small_and_whole_or_none(tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (1000, 500), (200, 30, 30)).save(wide)
    assert decoded(data_uri(wide)).size == (SIDE, SIDE // 2)
    assert decoded(data_uri(wide, center_crop=True)).size == (SIDE, SIDE)
    Image.new("RGB", (20, 10)).save(tmp_path / "small.png")
    assert decoded(data_uri(tmp_path / "small.png")).size == (20, 10)
    (tmp_path / "half.png").write_bytes(wide.read_bytes()[:400])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("half.png", "text.png", "lost.png", "", "x" * 300):
        assert data_uri(tmp_path / name) is None


def test_times_are_of_all_seeds(tmp_path):
    table = pa.table({"contestant": ["a"] * 4 + ["b"], "seed": [0, 0, 1, 1, 0], "index": [0] * 5,
                      "milliseconds": [1.0, 2.0, 3.0, 10.0, None]})
    found = times_of(table)
    assert list(found) == ["a"] and found["a"].median == 2.5 and found["a"].answers == 4
    assert found["a"].most == pytest.approx(8.95)


def test_costs_are_drawn_with_the_interval_of_the_difference(path):
    results = read_results(path)
    tokens, flops, time = charts.against_costs(results.rows, times_of(results.times))
    assert [point["x"] for point in tokens["points"]] == [16.0, 5.5, 16.0, 5.5]
    assert [point["x"] for point in flops["points"]] == [1.6, 0.55, 1.6, 0.55]
    assert [point["x"] for point in time["points"]] == [40.0, 24.5, 24.5, 24.5]
    assert time["x"].startswith("ms") and tokens["y"] == "accuracy %"
    full, rcp = tokens["points"][:2]
    assert full["interval"] is None and full["y"] == 80.0
    # differences of -0.18 and 0.02, at the 80 % of the full model
    assert rcp["interval"] == pytest.approx([62.0, 82.0]) and rcp["y"] == 72.0


def test_without_times_a_prefill_stands_for_them(path):
    results = read_results(path)
    *_, time = charts.against_costs(results.rows, None)
    assert [point["x"] for point in time["points"]] == pytest.approx([1, 5.5 / 16, 1, 5.5 / 16])


def test_a_figure_that_is_no_share_is_drawn_in_its_own_unit(path):
    changed = [row | {"metric": "score", "percent": False, "accuracy": 1500.0} for row in rows()]
    path.write_text(json.dumps(changed))
    tokens, *_ = charts.against_costs(read_rows(path), None)
    assert tokens["y"] == "score"
    assert {(point["y"], point["interval"]) for point in tokens["points"]} == {(1500.0, None)}


def test_a_type_that_only_some_have_met_leaves_a_gap(path):
    path.write_text(json.dumps([rows()[0], rows()[1] | {"by_type": {"region": 0.5}}]))
    found = sections(read_results(path))
    assert found.by_type[2] == ["rcp", "", "50.0"]
    assert found.charts["by_type"]["series"][1]["values"] == [None, 50.0]


def test_a_logarithm_knows_nothing_of_zero():
    line = charts.over_layers("w2", {"a": [0.0, 1.0]}, logarithmic=True)
    assert line["series"] == [{"name": "a", "values": [None, 1.0]}] and line["labels"] == [0, 1]


def test_tables_over_layers(path):
    found = sections(read_results(path))
    assert found.layers[0] == ["layer", "full", "rcp", "blank_image", "random"]
    assert [line[2] for line in found.layers[1:]] == ["16.0", "8.0", "8.0", "3.0", "3.0", "3.0"]
    assert found.cache[1] == ["0", "8.0", "8.0", "8.0", "8.0"]  # 16 tokens of 512 bytes each
    assert [change.contestant for change in found.changes] == ["rcp", "blank_image", "random"]
    assert [len(change.listed) for change in found.changes] == [9, 30, 30]


def test_the_average_over_evaluations_is_that_of_shares(path, tmp_path):
    other = write_evaluation(tmp_path / "other")
    some = [row | {"retained": 0.5} for row in rows() if row["method"] != "random"]
    other.write_text(json.dumps(some))
    cells = across([read_results(path), read_results(other)])
    assert cells[0] == ["retained %", str(path), str(other), "average"]
    assert cells[2] == ["rcp", "90.0", "50.0", "70.0"]
    assert cells[4] == ["random", "55.0", "", "55.0"]
    assert across([read_results(path)]) == []


def test_rows_of_before_are_read(path):
    newer = {"interval", "mcnemar_p", "figures", "metric", "percent", "unreadable",
             "tokens_per_layer", "kv_bytes_per_layer"}
    path.write_text(json.dumps([{k: v for k, v in row.items() if k not in newer}
                                for row in rows()]))
    for file in path.parent.glob("*.parquet"):
        file.unlink()
    found = sections(read_results(path))
    assert found.results.answers is None and found.gallery is None and found.changes == []
    assert found.layers == [] == found.cache == found.timing and len(found.costs) == 3


def test_the_full_model_alone_has_nothing_to_be_compared_with(path):
    path.write_text(json.dumps(rows()[:1]))
    found = sections(read_results(path))
    assert found.gallery is None and found.costs == [] and found.changes == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be read as rows"),
        ("{}", "holds {}"),
        ("[]", "holds \\[\\]"),
        ("[1]", "no place for 1"),
        ('[{"method": "full"}]', "incomplete"),
        (json.dumps([rows()[0] | {"accuracy": "high"}]), "accuracy is 'high'"),
        (json.dumps([rows()[0] | {"accuracy": math.nan}]), "a finite float"),
        (json.dumps([rows()[0] | {"method": "a\ud800b"}]), "surrogates not allowed"),
        (json.dumps([rows()[0] | {"interval": [0.1]}]), "an interval has two ends"),
        (json.dumps([rows()[0] | {"flops": 0}]), "flops must be above 0"),
        (json.dumps([rows()[0] | {"speed": 1}]), "no place for the field 'speed'"),
        ("[" * 100000, "cannot be read as rows"),
    ],
)
def test_what_are_no_rows_is_refused(path, text, complaint):
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as refusal:
        read_results(path)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="evaluate.py wrote with --output"):
        read_results(tmp_path / "rows.json")


@pytest.mark.parametrize("what", ["samples", "times"])
def test_a_damaged_table_is_refused(path, what):
    table = path.with_name(f"rows.{what}.parquet")
    whole = table.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no table", b""):
        table.write_bytes(damaged)
        with pytest.raises(UserError, match=f"rows.{what}.parquet.*is not what evaluate.py"):
            read_results(path)


def test_a_table_without_a_column_is_refused(path):
    schema = pa.schema([field for field in SAMPLES if field.name != "score"])
    lines = [{k: v for k, v in line.items() if k != "score"} for line in answers(2)]
    write_table(lines, schema, path.with_name("rows.samples.parquet"))
    with pytest.raises(UserError, match="score"):
        read_results(path)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"kept": [[99], []]}, "visual token 99 of the sample of index 0, which has 16"),
        ({"kept": [[-1], []]}, "visual token -1"),
    ],
)
def test_tokens_that_are_not_there_are_refused(tmp_path, more, complaint):
    results = read_back(tmp_path, [answer("full", 0, 0), answer("rcp", 0, 0) | more])
    with pytest.raises(UserError, match=complaint):
        gallery.gallery(results)


@pytest.mark.parametrize(
    "more",
    [
        {"places": [[0.0, 0.0]]},
        {"image_index": [0]},
        {"image_index": [None] * TOKENS},
        {"places": [[0.0]] * TOKENS},
        {"places": [[0.0, None]] * TOKENS},
        {"places": [None] * TOKENS},
        {"visual_tokens": TOKENS + 1},
    ],
)
def test_places_that_do_not_fit_are_refused(tmp_path, more):
    results = read_back(tmp_path, [answer("full", 0, 0) | more, answer("rcp", 0, 0)])
    with pytest.raises(UserError, match="a row and a column"):
        gallery.gallery(results)


def test_places_may_be_missing(tmp_path):
    nothing = {"places": None, "image_index": None, "image": []}
    lines = [answer("full", 0, 0) | nothing, answer("rcp", 0, 0) | nothing]
    found = gallery.gallery(read_back(tmp_path, lines))
    assert found["grids"] == [[]] and found["images"] == [[]]


def test_a_diagnosis_is_read_back(tmp_path):
    (tmp_path / "found.json").write_text(json.dumps(diagnosis()))
    assert read_diagnosis(tmp_path / "found.json") == diagnosis()


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps(diagnosis() | {"samples": "all"}),
                                  json.dumps(diagnosis() | {"sink_multiple": math.inf})])
def test_what_is_no_diagnosis_is_refused(tmp_path, text):
    (tmp_path / "found.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read as a diagnosis.*python -m rcp diagnose"):
        read_diagnosis(tmp_path / "found.json")


def test_rows_are_read_as_they_were_written(path, tmp_path):
    found = read_rows(path)
    write_rows(found, tmp_path / "again.json")
    assert read_rows(tmp_path / "again.json") == found and found[3].method == "random"
    assert found[1].tokens_per_layer == [16, 8, 8, 3, 3, 3] and found[0].interval is None
