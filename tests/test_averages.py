"""The average over sets, worked out by hand."""

import math
from dataclasses import replace

import pytest

from rcp.errors import UserError
from rcp.evaluation.report import tables
from rcp.evaluation.report.averages import average_table, averages
from rcp.evaluation.report.rows import ResultRow

FULL = ResultRow("full", 0.8, 0.0, {}, 1.0, 576.0, 576.0, 2e9, 1024, 1.0, 1, 40)
RCP = replace(FULL, method="rcp", mean_tokens=64.0, entering_tokens=192.0)
MME = replace(FULL, accuracy=1500.0, metric="perception", percent=False)

RESULTS = {
    "gqa": [FULL, replace(RCP, accuracy=0.76)],
    "mme": [MME, replace(RCP, accuracy=1470.0), replace(MME, method="random", accuracy=750.0)],
}


def test_the_average_is_the_mean_of_ratios_whatever_the_unit():
    full, ours, random = averages(RESULTS)
    assert full.average == 1.0
    assert ours.retained == {"gqa": pytest.approx(0.95), "mme": pytest.approx(0.98)}
    assert ours.average == pytest.approx(0.965)  # not 1470.76 / 1500.8
    assert random.average == 0.5 and list(random.retained) == ["mme"]


def test_the_table_names_the_sets_of_each_average():
    few = {"gqa": RESULTS["gqa"], "mme": [MME, replace(RCP, accuracy=1470.0, mean_tokens=60.0)]}
    header, full, ours = average_table(averages(few))
    assert header == [
        "method", "average %", "mean tokens", "entering", "gqa %", "mme %", "average of",
    ]
    assert ours == ["rcp", "96.5", "60.0 to 64.0", "192.0", "95.0", "98.0", "gqa, mme"]
    *_, random = average_table(averages(RESULTS))
    assert random[4:] == ["", "50.0", "mme"]
    assert len(tables.markdown([header, full, ours]).splitlines()) == 4


@pytest.mark.parametrize("accuracy", [0.0, -1.0, math.nan, math.inf])
def test_a_full_model_without_a_score_is_refused(accuracy):
    with pytest.raises(UserError, match="'bad', 'full', has accuracy .*Leave that set out"):
        averages({"gqa": RESULTS["gqa"], "bad": [replace(FULL, accuracy=accuracy)]})


def test_a_set_without_rows_is_refused():
    with pytest.raises(UserError, match="'gqa' have no row"):
        averages({"gqa": []})
