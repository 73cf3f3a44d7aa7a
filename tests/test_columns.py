"""Where columns are among the rows that are left, and what continues them, by value."""

import pytest
import torch
from transformers import DynamicCache

import rcp
from rcp.attaching.forwards.columns import Columns
from rcp.choosing.positions import Positions
from tests.decoding import error
from tests.tiny import rcp_spec, tiny_inputs

EVERYTHING = torch.arange(6).expand(2, -1)
KEEP = torch.tensor([[True, False, True, False], [False, True, True, False]])


@pytest.fixture
def columns():
    """Of columns 1 to 4 the first sample has 1 and 3, the second 2 and 3."""
    return Columns(EVERYTHING).shrink(range(1, 5), KEEP, 2)[0]


def test_rows_left_keep_their_numbers(columns):
    assert columns.current.tolist() == [[0, 1, 3, 5], [0, 2, 3, 5]]
    assert (columns.count, columns.shrunk.run, columns.shrunk.left) == (4, range(1, 5), 2)
    assert columns.shrunk.rows == range(1, 3)


@pytest.mark.parametrize(
    "run, moved", [(range(0, 1), range(0, 1)), (range(5, 6), range(3, 4))], ids=["before", "behind"]
)
def test_a_run_outside_of_what_went_stays_a_run(columns, run, moved):
    assert columns.locate(Positions(run=run)) == Positions(run=moved)


@pytest.mark.parametrize(
    "asked, found",
    [
        (Positions(torch.tensor([[5, 1], [3, 0]])), [[3, 1], [2, 0]]),
        (Positions(run=range(3, 6)), [[2, 0, 3], [2, 0, 3]]),  # column 4 is gone: anywhere
    ],
    ids=["listed", "a run through what went"],
)
def test_others_are_listed(columns, asked, found):
    assert columns.locate(asked).index(EVERYTHING).tolist() == found


def test_two_tokens_at_once_see_what_they_see_one_by_one(tiny_llava):
    """The first of them must not see the second: several new rows need a mask over the past."""
    inputs = tiny_inputs(questions=(5,), images=(1,))
    plugin = rcp.Plugin.for_model(rcp_spec(), tiny_llava).eval()
    more = torch.tensor([[11, 23]])
    caches = [DynamicCache(config=tiny_llava.config) for _ in range(2)]
    with torch.no_grad(), rcp.attach(tiny_llava, plugin):
        for cache in caches:
            tiny_llava(**inputs, past_key_values=cache)
        whole = tiny_llava(input_ids=more, past_key_values=caches[0]).logits
        parts = [
            tiny_llava(input_ids=one, past_key_values=caches[1]).logits for one in more.T[:, None]
        ]
    assert error(whole, torch.cat(parts, 1)) < 1e-5
