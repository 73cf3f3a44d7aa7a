"""What every metric of ``METRICS`` keeps, whatever the samples."""

import pytest
import torch
import torch.multiprocessing as processes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcp.errors import UserError
from rcp.evaluation.metrics.answer_metric import METRICS
from tests.metrics.samples import SAMPLES

ARGUMENTS = {"letter_choice": ("mmmu",), "exact_match": (["colour", "count"],)}

pytestmark = pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
drawn = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
every_metric = pytest.mark.parametrize("name", sorted(SAMPLES))


@pytest.fixture
def make(name, synonyms):
    """A function that makes a metric of this name."""
    arguments = (str(synonyms),) if name == "chair" else ARGUMENTS.get(name, ())
    return lambda: METRICS.get(name)(*arguments)


def fed(metric, *batches):
    """``metric`` with these batches of rows counted."""
    for batch in batches:
        if batch:
            metric.update(*map(list, zip(*batch)))
    return metric


def same(one, other):
    """Whether two results are the same names and numbers."""
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=1e-12, equal_nan=True)


def test_every_metric_is_under_contract():
    ours = {name for name in METRICS.names() if METRICS.get(name).__module__.startswith("rcp.")}
    assert ours == set(SAMPLES)


@every_metric
@drawn
@given(data=st.data())
def test_the_order_of_samples_does_not_matter(name, make, data):
    rows = data.draw(SAMPLES[name])
    shuffled = data.draw(st.permutations(rows))
    same(fed(make(), rows).compute(), fed(make(), shuffled).compute())


@every_metric
@drawn
@given(data=st.data())
def test_batches_split_anywhere_give_the_same(name, make, data):
    rows = data.draw(SAMPLES[name])
    cut = data.draw(st.integers(0, len(rows)))
    one_by_one = fed(make(), *[[row] for row in rows]).compute()
    same(fed(make(), rows).compute(), one_by_one)
    same(fed(make(), rows[:cut], rows[cut:]).compute(), one_by_one)


@every_metric
@drawn
@given(data=st.data())
def test_merged_states_equal_one(name, make, data):
    rows = data.draw(SAMPLES[name])
    cut = data.draw(st.integers(0, len(rows)))
    first, second = fed(make(), rows[:cut]), fed(make(), rows[cut:])
    first.merge_state(second)
    same(first.compute(), fed(make(), rows).compute())


@every_metric
@drawn
@given(data=st.data())
def test_results_are_named_float64_numbers_that_reset_clears(name, make, data):
    metric = fed(make(), data.draw(SAMPLES[name]))
    for value in metric.compute().values():
        assert value.shape == () and value.dtype == torch.float64
    metric.reset()
    same(metric.compute(), make().compute())


@every_metric
def test_without_samples_there_is_no_mean(name, make):
    metric = make()
    nothing = metric.compute()
    absolute = {"chair": {"chair_i": 0.0}, "containment": {"right": 0.0}}.get(name, {})
    assert all(absolute.get(key, torch.nan) == value or value.isnan()
               for key, value in nothing.items())


@every_metric
@drawn
@given(data=st.data())
def test_columns_of_unequal_length_are_refused_and_nothing_is_counted(name, make, data):
    rows = data.draw(SAMPLES[name].filter(len))
    metric = make()
    columns = [list(column) for column in zip(*rows)]
    columns[0].append("one more")
    with pytest.raises(UserError, match="one of each for every sample"):
        metric.update(*columns)
    same(metric.compute(), make().compute())


ROWS = {
    "pope": [("yes", "yes", "random"), ("no", "yes", "popular"), ("yes", "no", "adversarial")],
    "mme": [("yes", "yes", "count", "1"), ("no", "no", "count", "1")],
    "mmbench": [("A", "A", ["x", "y"], 3), ("A", "B", ["y", "x"], 1_000_003)],
}


def _one_process(rank, shares, folder):
    """Count this process's rows of each metric, and save what all of them together give."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/met", rank=rank, world_size=2)
    found = {name: fed(METRICS.get(name)(), rows[rank]).compute() for name, rows in shares.items()}
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("of_first", [1, None], ids=["uneven", "one-without"])
def test_two_processes_give_what_one_gives(of_first, tmp_path):
    shares = {name: (rows[:of_first], rows[len(rows[:of_first]) :]) for name, rows in ROWS.items()}
    processes.spawn(_one_process, (shares, tmp_path), nprocs=2)
    for rank in range(2):
        for name, found in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            same(found, fed(METRICS.get(name)(), ROWS[name]).compute())
