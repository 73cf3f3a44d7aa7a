"""Positions of the decoder's input where the model leaves them to its decoder."""

import pytest
import torch

from rcp.attaching.forwards.at_entry import with_positions


def test_a_prompt_is_counted_from_nought():
    """One row for all of the batch, of as many columns as the input; nothing else is touched."""
    embeds = torch.zeros(2, 3, 7)
    found = with_positions({"inputs_embeds": embeds, "use_cache": True})
    assert found["position_ids"].tolist() == [[0, 1, 2]]
    assert found["inputs_embeds"] is embeds and found["use_cache"] is True and len(found) == 3


def test_a_continuation_is_counted_from_the_cache_on():
    given = {"inputs_embeds": torch.zeros(1, 2, 7), "position_ids": None}
    assert with_positions(given, start=40)["position_ids"].tolist() == [[40, 41]]
    assert given["position_ids"] is None


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 3)])
def test_positions_that_are_there_stay(shape: tuple[int, ...]):
    given = {"inputs_embeds": torch.zeros(2, 3, 7), "position_ids": torch.zeros(shape)}
    assert with_positions(given, start=5) is given
