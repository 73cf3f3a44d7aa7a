"""The cache is found under the name of any release."""

import pytest
from torch import nn

from rcp.attaching.cache_names import NAMES, cache_in, cache_name


@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_found_whatever_it_is_called(name: str):
    cache = object()
    others = {other: None for other in NAMES if other != name}
    assert cache_in({name: cache, "use_cache": True}) is cache
    assert cache_in({**others, name: cache}) is cache
    assert cache_in(others) is None is cache_in({})


def test_a_module_tells_what_it_calls_its_cache():
    class Older(nn.Module):
        def forward(self, hidden, past_key_values=None):
            return hidden

    class Newer(nn.Module):
        def forward(self, hidden, cache=None, **kwargs):
            return hidden

    assert (cache_name(Older()), cache_name(Newer())) == ("past_key_values", "cache")
