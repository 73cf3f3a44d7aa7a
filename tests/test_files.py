"""How large the files of an exported folder may be, to the byte."""

import pytest

from rcp import UserError
from rcp.folder.files import LARGEST, refuse_too_large


@pytest.mark.parametrize(
    ("name", "largest"), [("plugin.json", 33_554_432), ("plugin.safetensors", 17_179_869_184)]
)
def test_a_file_may_have_so_many_bytes_and_no_more(name: str, largest: int):
    refuse_too_large(name, largest, "'folder'")
    with pytest.raises(UserError, match=f"{name} of 'folder' has .* MiB, which no plug-in has"):
        refuse_too_large(name, largest + 1, "'folder'")


def test_what_rebuilds_a_plugin_has_a_limit_and_nothing_else_is_read():
    assert list(LARGEST) == ["plugin.json", "plugin.safetensors"]
