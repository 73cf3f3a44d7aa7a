"""Values of a file against the types their fields declare."""

import pytest

from rcp import Plugin, PluginSpec, StageSpec, UserError
from rcp.base_model.identity import BaseIdentity
from rcp.pruners import PRUNERS
from rcp.typed_values import check_arguments, from_plain
from tests.tiny import rcp_spec

STAGE = {"layer": 1, "ratio": 0.5}


def test_what_was_written_is_read():
    spec = from_plain(PluginSpec, rcp_spec().to_dict())
    assert spec.to_dict() == from_plain(PluginSpec, spec.to_dict()).to_dict()
    assert from_plain(PluginSpec, {"stages": [{"layer": 1, "ratio": 1}]}).stages[0].ratio == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], "no place for \\[1\\]"),
        ({}, "incomplete"),
        ({"stages": "ab"}, "PluginSpec.stages is 'ab'"),
        ({"stages": [1]}, "StageSpec has no place for 1"),
        ({"stages": [STAGE | {"layer": 1.5}]}, "layer is '1.5', but it must be int"),
        ({"stages": [STAGE | {"layer": True}]}, "StageSpec.layer"),
        ({"stages": [STAGE | {"ratio": None}]}, "must be a finite float"),
        ({"stages": [STAGE | {"ratio": float("nan")}]}, "must be a finite float"),
        ({"stages": [STAGE | {"method": ["rcp"]}]}, "must be str"),
        ({"stages": [STAGE | {"arguments": [1]}]}, "must be dict"),
        ({"stages": [STAGE], "repair": {"layers": "23"}}, "RepairSpec.layers"),
        ({"stages": [STAGE], "lora": 5}, "LoraSpec has no place for 5"),
        ({"stages": [STAGE], "budgets": [0.1, "x"]}, "PluginSpec.budgets"),
    ],
)
def test_other_types_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        from_plain(PluginSpec, values)


def test_samples_are_numbers_by_name():
    sizes = {"name_or_path": "", "architecture": "", "model_type": "", "hidden_size": 1,
             "num_layers": 1}
    with pytest.raises(UserError, match="BaseIdentity.samples is 'x'"):
        from_plain(BaseIdentity, sizes | {"samples": {"embedding": ["x"]}})


def test_arguments_of_a_method():
    pruner = PRUNERS.get("random")
    check_arguments(pruner, {"seed": 3})
    with pytest.raises(UserError, match="seed is 'abc', but it must be int"):
        check_arguments(pruner, {"seed": "abc"})


def test_every_method_declares_types_that_can_be_read():
    for name in PRUNERS.names():
        check_arguments(PRUNERS.get(name), {"hidden_size": 8})


@pytest.mark.parametrize(
    ("method", "arguments", "complaint"),
    [
        ("rcp", {"queries": 0}, "queries is 0"),
        ("covipal", {"blocks": -1}, "blocks is -1"),
        ("feather", {"stride": 0}, "stride is 0, but it must be from 1 to 65536"),
        ("holov", {"crops": 0}, "crops is 0"),
        ("mmtok", {"text_temperature": 0.0}, "text_temperature is 0.0"),
        ("sparsevlm", {"recycled": -1.0}, "recycled is -1.0, but it must be from 0 to 1"),
        ("visiondrop_decoder", {"contextual": 2.0}, "contextual is 2.0"),
        ("visiondrop_encoder", {"contextual": -1.0}, "contextual is -1.0"),
        ("zoo_prune", {"directions": 0}, "directions is 0"),
        ("agilepruner", {"average_erank": 0.0}, "average_erank is 0.0"),
        ("oracle", {"layers": []}, "layers is empty"),
        ("without_sinks", {"dimensions": [8]}, "a dimension is 8, but it must be from 0 to 7"),
        ("without_sinks", {"dimensions": []}, "dimensions is empty"),
    ],
)
def test_arguments_out_of_range_are_refused_when_a_method_is_made(method, arguments, complaint):
    spec = PluginSpec([StageSpec(1, 0.5, method, arguments)])
    with pytest.raises(UserError, match=complaint):
        Plugin(spec, hidden_size=8, num_layers=4)
