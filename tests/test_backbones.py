"""`python -m rcp backbones`: no type of transformers' without a verdict, and none with two."""

import json
import re
from pathlib import Path

import pytest
import transformers

from rcp.__main__ import main
from rcp.backbones.base import BACKBONES
from rcp.backbones.refused import REFUSED
from rcp.backbones.verdicts import UNKNOWN, listed_types, verdict, verdicts
from tests.documents import read

PINNED = re.search(r"^transformers==(.*)$", Path("constraints.txt").read_text(), re.MULTILINE)[1]
on_the_pinned_release = pytest.mark.skipif(
    transformers.__version__ != PINNED, reason="which types there are is a matter of the release"
)


@on_the_pinned_release
def test_every_type_of_transformers_has_a_verdict():
    without = [one.model_type for one in verdicts() if one.note == UNKNOWN]
    assert not without, "support them, or give the reason in rcp/backbones/refused.py"
    assert {*listed_types()} == {*BACKBONES.names(), *REFUSED}


@on_the_pinned_release
def test_forty_are_supported():
    assert len([one for one in verdicts() if one.supports]) >= 40


def test_no_type_is_both_supported_and_refused():
    assert not {*BACKBONES.names()} & {*REFUSED}


@on_the_pinned_release
def test_the_document_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]):
    assert main(["backbones", "--markdown"]) == 0
    assert capsys.readouterr().out == read("docs/backbones.md"), (
        "run: python -m rcp backbones --markdown > docs/backbones.md"
    )


def test_a_type_is_listed_with_what_it_supports_or_why_it_does_not(
    capsys: pytest.CaptureFixture[str],
):
    assert main(["backbones"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert [*lines] == [one.model_type for one in verdicts()]
    assert "Qwen2-VL" in lines["qwen2_vl"] and "(drop, train, videos)" in lines["qwen2_vl"]
    assert "(drop)" in lines["paligemma"] and "(drop, train)" in lines["llava"]
    assert "not supported: it looks at images by cross-attention" in lines["mllama"]
    assert main(["backbones", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["gemma3"]["supports"] == ["drop", "train"] and entries["gemma3"]["limits"]
    assert entries["florence2"]["supports"] == [] and "encoder" in entries["florence2"]["summary"]


def test_a_type_of_a_later_release_is_not_guessed_at():
    assert verdict("of-tomorrow").supports == () and verdict("of-tomorrow").note == UNKNOWN
