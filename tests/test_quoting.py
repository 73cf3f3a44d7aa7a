"""What errors quote of a file: 200 characters at most, nothing that a terminal would act on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import rcp
from rcp.conversations import ConversationDataset
from rcp.errors import UserError
from rcp.quoting import SHOWN, plain, quoted
from rcp.typed_values import from_plain
from tests.tiny import reference_plugin

BAD = "\x1b[31m\x07\r\n\u202e\ud83d\0"
LARGE = ("x" * 100_000, BAD * 20_000, ["y" * 1000] * 1000, {"k" * 1000: [BAD] * 1000}, b"\0" * 9999,
         Path("z" * 9999), [[[[[[[["deep"]]]]]]]], 10**4000, {n: n for n in range(10_000)})


@pytest.mark.parametrize("value", LARGE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("show", [quoted, plain])
def test_what_is_quoted_is_short_and_printable(show: Any, value: Any):
    shown = show(value)
    assert 0 < len(shown) <= SHOWN + 6 and shown.isprintable()


def test_short_values_are_quoted_as_they_are():
    assert quoted("a b") == "'a b'" and quoted(["a", None, 2.5]) == "['a', None, 2.5]"
    assert quoted(Path("a/b.png")) == "'a/b.png'" and quoted(b"ab") == "b'ab'"
    assert quoted("a\nb\x1b") == r"'a\nb\x1b'" and quoted("é 猫") == "'é 猫'"
    assert plain("a\n  b\x1b at 0x7f57b69b6160>") == r"a b\x1b>"


def test_of_a_long_path_the_end_is_seen():
    assert quoted("/data/" + "x" * 500 + "/lost.png").endswith("/lost.png'")


@pytest.mark.parametrize("message", ["a\nb", "a\r\n\tb", "a\u2028b", " a \n\n b\n"])
def test_a_message_is_one_line(message: str):
    assert str(UserError(message)) == "a b"
    assert str(UserError(f"is {BAD}")).isprintable()


class Refuses(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise UserError("Sample 'a' cannot be read (Error: no). Remove it.")


def test_a_refusal_in_a_worker_of_a_data_loader_is_the_sentence_alone():
    with pytest.raises(UserError) as refusal:
        list(DataLoader(Refuses(), num_workers=1))
    assert str(refusal.value) == "Sample 'a' cannot be read (Error: no). Remove it."


# -- everywhere --------------------------------------------------------------------------------


HOSTILE = ("x" * 100_000, BAD * 5000, [BAD] * 10_000)


def hostile(value: Any) -> Iterator[Any]:
    """``value`` with each string, number and name in it replaced by something long and bad."""
    for large in HOSTILE:
        yield from replaced(value, large)


def replaced(value: Any, large: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for name in value:
            for changed in replaced(value[name], large):
                yield value | {name: changed}
        yield value | {str(large): 1}
    elif isinstance(value, list) and value:
        for changed in replaced(value[0], large):
            yield [changed, *value[1:]]
    else:
        yield large


def refused(act: Any) -> None:
    """``act`` may succeed; if it refuses, then in a sentence."""
    try:
        act()
    except UserError as refusal:
        told = str(refusal)
        assert told.isprintable() and len(told) < 1500, told[:3000]


def test_no_row_makes_a_long_message(tmp_path: Path):
    rows = [
        {"id": "a", "image": "a.png", "question_type": "x",
         "conversations": [{"from": "human", "value": "<image> q"}, {"from": "gpt", "value": "a"}]},
        {"id": 5, "question": "q", "answer": "a", "images": [{"bytes": "aa", "path": "b"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]},
        {"texts": [{"user": "q", "assistant": "a"}]},
    ]
    path = tmp_path / "rows.json"
    for row in rows:
        for changed in hostile(row):
            path.write_text(json.dumps([changed]))
            refused(lambda: ConversationDataset(path))
            refused(lambda: ConversationDataset(path)[0])


def test_no_plugin_folder_makes_a_long_message(
    tmp_path: Path, tiny_llava: torch.nn.Module, recwarn: pytest.WarningsRecorder
):
    rcp.save_plugin(reference_plugin("rcp", tiny_llava), tmp_path / "plugin")
    file = tmp_path / "plugin" / "plugin.json"
    whole = json.loads(file.read_text())
    for changed in hostile(whole):
        file.write_text(json.dumps(changed))
        refused(lambda: rcp.attach(tiny_llava, rcp.load_plugin(tmp_path / "plugin")).remove())
    for warning in recwarn:
        assert str(warning.message).isprintable() and len(str(warning.message)) < 1500


def test_no_list_of_plain_values_makes_a_long_message():
    for changed in hostile({"layers": [1], "method": "film", "arguments": {"a": 1}}):
        refused(lambda: from_plain(rcp.RepairSpec, changed))
