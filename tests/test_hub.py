"""Plug-ins on the hub: pushed, fetched by name and revision, and nothing else of a repository."""

import inspect
import json
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelHubMixin
from safetensors.torch import save

import rcp
from rcp.evaluation.entrants import exported
from rcp.folder import hub as room
from rcp.folder.files import LARGEST
from rcp.folder.hub import is_hub_id
from tests.fake_hub import commit_of, running
from tests.tiny import rcp_spec, reference_plugin

ROWS = [
    {"method": "full", "accuracy": 0.94, "accuracy_std": 0.0, "by_type": {"counting": 0.9},
     "retained": 1.0, "mean_tokens": 16.0, "entering_tokens": 16.0, "flops": 2e9,
     "kv_bytes": 4096, "prefill_speedup": 1.0, "seeds": 1, "n": 300, "unreadable": []},
    {"method": "a|b", "accuracy": 0.9167, "accuracy_std": 0.0, "by_type": {"counting": 0.8},
     "retained": 0.9752, "mean_tokens": 4.25, "entering_tokens": 8.0, "flops": 5e8,
     "kv_bytes": 1024, "prefill_speedup": 2.5, "seeds": 1, "n": 300, "unreadable": []},
]
TABLE = """| full | 94.0 | 100.0 | 16.0 | 16.0 | 2.000 | 4.0 | 1.00x |
| a\\|b | 91.7 | 97.5 | 4.2 | 8.0 | 0.500 | 1.0 | 2.50x |"""


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def plugin(tiny_llava):
    plugin = reference_plugin("rcp", tiny_llava)
    plugin.base.name_or_path = "org/base"
    return plugin


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    return tmp_path / "rows.json"


def same_weights(one, other):
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


# -- pushed and fetched ----------------------------------------------------------------------------


def test_what_is_pushed_is_loaded_by_its_name(hub, plugin, rows, tiny_llava, inputs):
    address = plugin.push_to_hub("org/name", evaluation=rows, private=True)
    pushed = hub.repositories["org/name"]["main"]
    assert set(pushed) == {"plugin.json", "plugin.safetensors", "README.md", "evaluation.json"}
    assert json.loads(pushed["evaluation.json"]) == ROWS and hub.private["org/name"] is True
    assert commit_of(pushed) in address
    for load in (rcp.load_plugin, rcp.Plugin.from_pretrained):
        fetched = load("org/name")
        assert same_weights(plugin, fetched) and fetched.base == plugin.base
    (contestant,) = exported([Path("org/name")])  # as evaluate.py --plugin gives it
    assert same_weights(plugin, contestant.plugin)
    assert hub.fetched == {"plugin.json", "plugin.safetensors"}
    with torch.no_grad(), rcp.attach(tiny_llava, plugin):
        expected = tiny_llava(**inputs).logits
    with torch.no_grad(), rcp.attach(tiny_llava, fetched):
        assert torch.equal(tiny_llava(**inputs).logits, expected)


def test_the_card_says_what_the_hub_reads_and_what_was_measured(hub, plugin, rows):
    plugin.push_to_hub("org/name", evaluation=rows)
    card = hub.repositories["org/name"]["main"]["README.md"].decode()
    assert metadata(card) == {
        "base_model": "org/base",
        "library_name": "rcp",
        "pipeline_tag": "image-text-to-text",
        "tags": ["visual-token-pruning", "rcp"],
    }
    assert TABLE in card and "300 questions" in card and 'rcp.load("org/name")' in card


@pytest.mark.parametrize("name", ["/tmp/base", "a: b\n---\n# c", "", "x" * 300, "a/b/c"])
def test_a_base_that_no_repository_is_called_is_no_metadata(plugin, tmp_path, name):
    plugin.base.name_or_path = name
    plugin.save_pretrained(tmp_path / "plugin")
    card = (tmp_path / "plugin" / "README.md").read_text()
    assert "base_model" not in metadata(card) and "Measured" not in card


def test_a_revision_is_that_one(hub, plugin, tiny_llava):
    plugin.push_to_hub("org/name")
    first = commit_of(hub.repositories["org/name"]["main"])
    other = rcp.Plugin.for_model(rcp_spec(), tiny_llava)
    hub.repositories["org/name"]["v2"] = {}
    other.push_to_hub("org/name", branch="v2")
    assert same_weights(plugin, rcp.load_plugin("org/name"))
    assert same_weights(plugin, rcp.load_plugin("org/name", revision=first))
    assert same_weights(other, rcp.load_plugin("org/name", revision="v2"))
    other.push_to_hub("org/name")
    assert same_weights(other, rcp.load_plugin("org/name"))


def test_both_files_are_of_one_commit(hub, plugin, tiny_llava, monkeypatch):
    """Though someone pushes between the two downloads."""
    plugin.push_to_hub("org/name")
    download, calls = room.snapshot_download, []

    def and_a_push_after_the_first(**arguments):
        found = download(**arguments)
        if not calls:
            rcp.Plugin.for_model(rcp_spec((0,), (0.5,), ()), tiny_llava).push_to_hub("org/name")
        calls.append(arguments["revision"])
        return found

    before = commit_of(hub.repositories["org/name"]["main"])
    hub.repositories["org/name"]["before"] = dict(hub.repositories["org/name"]["main"])
    monkeypatch.setattr(room, "snapshot_download", and_a_push_after_the_first)
    assert same_weights(plugin, rcp.load_plugin("org/name"))
    assert calls == [None, before]


def test_what_the_one_before_had_more_is_gone_from_the_repository(hub, plugin, tiny_llava, rows):
    spec = rcp_spec()
    spec.lora = rcp.LoraSpec(rank=2)
    rcp.Plugin.for_model(spec, tiny_llava).push_to_hub("org/name", evaluation=rows)
    files = hub.repositories["org/name"]["main"]
    assert "lora/adapter_model.safetensors" in files
    files["notes.txt"] = b"of others"
    plugin.push_to_hub("org/name")
    left = {"plugin.json", "plugin.safetensors", "README.md", "notes.txt"}
    assert set(hub.repositories["org/name"]["main"]) == left


def test_what_was_fetched_is_there_without_a_network(hub, plugin, monkeypatch):
    plugin.push_to_hub("org/name")
    rcp.load_plugin("org/name")
    asked = len(hub.asked)
    assert same_weights(plugin, rcp.load_plugin("org/name", local_files_only=True))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same_weights(plugin, rcp.load_plugin("org/name"))
    assert len(hub.asked) == asked
    with pytest.raises(rcp.UserError, match="'org/other' is no folder here, and no repository"):
        rcp.load_plugin("org/other")


def test_load_takes_the_name_and_its_revision(hub, plugin, monkeypatch):
    plugin.push_to_hub("org/name")
    given = {}
    monkeypatch.setattr(
        "rcp.base_model.loading.pretrained",
        lambda base, **arguments: given.update(base=base, **arguments) or (_ for _ in ()).throw(
            rcp.UserError("not here.")),
    )
    commit = commit_of(hub.repositories["org/name"]["main"])
    with pytest.raises(rcp.UserError, match="not here. That is the name in 'org/name'"):
        rcp.load("org/name", revision=commit, token="hf_mine", dtype="float32")
    assert given == {"base": "org/base", "token": "hf_mine", "dtype": "float32"}


# -- a name means a folder first -------------------------------------------------------------------


def test_a_local_folder_wins(hub, plugin, tiny_llava, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plugin.push_to_hub("org/name")
    other = rcp.Plugin.for_model(rcp_spec(), tiny_llava)
    other.save_pretrained("org/name")
    assert same_weights(other, rcp.load_plugin("org/name"))
    with pytest.raises(rcp.UserError, match="revision='main' is one of a repository.*is a folder"):
        rcp.load_plugin("org/name", revision="main")


def test_a_name_that_is_neither_says_both(hub):
    for name, revision in (("org/gone", None), ("org/gone", "v1")):
        with pytest.raises(rcp.UserError, match="no folder here, and no repository that the hub"):
            rcp.load_plugin(name, revision=revision)
    hub.repositories["org/name"] = {"main": {"README.md": b""}}
    with pytest.raises(rcp.UserError, match="'org/name' is no folder here.*plugin.json is missing"):
        rcp.load_plugin("org/name")
    with pytest.raises(rcp.UserError, match="'org/name' at 'v9' is no folder"):
        rcp.load_plugin("org/name", revision="v9")


def test_what_no_repository_is_called_is_not_asked_for(hub):
    for name in ("gone", "./gone/plugin", "a/b/c", "../gone", "/gone/plugin", "a/..", "org/a--b"):
        assert not is_hub_id(name)
        with pytest.raises(rcp.UserError, match="no exported plug-in"):
            rcp.load_plugin(name)
    assert hub.asked == []


def test_an_unknown_argument_is_one():
    with pytest.raises(TypeError, match="unexpected keyword argument 'revison'"):
        rcp.load_plugin("org/name", revison="main")


# -- what a stranger's repository holds ------------------------------------------------------------


@pytest.fixture
def hostile(hub, plugin):
    """Pushed, and then changed by someone."""
    plugin.push_to_hub("org/name")
    return hub.repositories["org/name"]["main"]


class Trap:
    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_pickles_code_and_paths_outside_are_never_fetched(hub, hostile, plugin, tmp_path):
    trap = pickle.dumps(Trap())
    for name in ("pytorch_model.bin", "config.json", "modeling.py", "../outside.json",
                 "sub/plugin.json", "..%2foutside", "plugin.pkl"):
        hostile[name] = trap
    assert same_weights(plugin, rcp.load_plugin("org/name"))
    assert hub.fetched == {"plugin.json", "plugin.safetensors"} and not Trap.sprung
    assert not list(tmp_path.rglob("outside*"))


def test_a_pickle_under_the_name_of_the_weights_is_refused(hostile):
    hostile["plugin.safetensors"] = pickle.dumps(Trap())
    with pytest.raises(rcp.UserError, match="damaged or truncated"):
        rcp.load_plugin("org/name")
    assert not Trap.sprung


@pytest.mark.parametrize("name", LARGEST)
def test_a_file_too_large_is_refused_before_it_is_fetched(hub, hostile, name):
    hub.claimed[name] = LARGEST[name] + 1
    with pytest.raises(rcp.UserError, match=f"{name} of 'org/name' has .* MiB, which no plug-in"):
        rcp.load_plugin("org/name")
    assert not hub.fetched


def test_nor_is_one_read_that_lies_here(plugin, tmp_path):
    plugin.save_pretrained(tmp_path / "plugin")
    with open(tmp_path / "plugin" / "plugin.json", "r+b") as file:
        file.truncate(LARGEST["plugin.json"] + 1)
    with pytest.raises(rcp.UserError, match="plugin.json of .* has 32 MiB, which no plug-in"):
        rcp.load_plugin(tmp_path / "plugin")


def test_a_hostile_description_is_refused_as_in_a_folder(hostile):
    described = json.loads(hostile["plugin.json"])
    described["plugin"]["stages"][0]["method"] = "os.system"
    hostile["plugin.json"] = json.dumps(described).encode()
    with pytest.raises(rcp.UserError, match="os.system"):
        rcp.load_plugin("org/name")
    described["plugin"]["stages"][0]["method"] = "rcp"
    described["hidden_size"] = 10**9
    hostile["plugin.json"] = json.dumps(described).encode()
    with pytest.raises(rcp.UserError, match="belong"):
        rcp.load_plugin("org/name")


def test_unknown_tensors_of_a_repository_are_named(hostile, plugin):
    weights = {**plugin.state_dict(), "stranger": torch.zeros(1)}
    hostile["plugin.safetensors"] = save(weights)
    with pytest.warns(UserWarning, match="stranger"):
        rcp.load_plugin("org/name")


# -- saved -----------------------------------------------------------------------------------------


def test_saving_takes_the_place_of_a_plugin_or_of_nothing(plugin, tiny_llava, tmp_path):
    place = tmp_path / "plugin"
    place.mkdir()
    assert plugin.save_pretrained(place) is None
    assert same_weights(plugin, rcp.load_plugin(place))
    other = rcp.Plugin.for_model(rcp_spec(), tiny_llava)
    other.save_pretrained(place)
    assert same_weights(other, rcp.load_plugin(place))
    assert [path.name for path in tmp_path.iterdir()] == ["plugin"]


def test_an_evaluation_in_the_folder_stays_where_it_is_given(plugin, tmp_path):
    plugin.save_pretrained(tmp_path / "plugin")
    measured = tmp_path / "plugin" / "evaluation.json"
    measured.write_text(json.dumps(ROWS))
    plugin.save_pretrained(tmp_path / "plugin", evaluation=measured)
    assert json.loads(measured.read_text()) == ROWS
    assert TABLE in (tmp_path / "plugin" / "README.md").read_text()


@pytest.mark.parametrize("name", ["thesis.tex", "evaluation.json"])
def test_saving_costs_no_other_file(plugin, tmp_path, name):
    plugin.save_pretrained(tmp_path / "plugin")
    (tmp_path / "plugin" / name).write_text("[]")
    with pytest.raises(rcp.UserError, match=f"holds '{name}', which would go"):
        plugin.save_pretrained(tmp_path / "plugin")
    assert (tmp_path / "plugin" / name).read_text() == "[]"
    with pytest.raises(rcp.UserError, match="is no folder"):
        plugin.save_pretrained(tmp_path / "plugin" / name)


def test_saving_can_push_what_it_saved(hub, plugin, rows, tmp_path):
    address = plugin.save_pretrained(
        tmp_path / "mine", evaluation=rows, push_to_hub=True, commit_message="First"
    )
    pushed = hub.repositories["me/mine"]["main"]
    assert address.endswith(commit_of(pushed))
    for name in ("plugin.json", "plugin.safetensors", "evaluation.json"):
        assert pushed[name] == (tmp_path / "mine" / name).read_bytes()
    assert same_weights(plugin, rcp.load_plugin("me/mine"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{}", "no list of rows"),
        ("[]", "no list of rows"),
        ("[1]", "not iterable"),
        ('[{"method": "full"}]', "incomplete"),
        (json.dumps([ROWS[0] | {"accuracy": "high"}]), "accuracy is 'high'"),
        (json.dumps([ROWS[0] | {"flops": float("nan")}]), "flops is 'nan'"),
        ("[" * 100_000, "recursion"),
        ("no JSON", "Expecting value"),
        (" " * 2**20 + "[]", "more than 1 MiB"),
    ],
)
def test_what_is_no_evaluation_is_refused_and_nothing_written(plugin, tmp_path, text, message):
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(rcp.UserError, match=f"is no evaluation: .*{message}"):
        plugin.save_pretrained(tmp_path / "plugin", evaluation=tmp_path / "rows.json")
    with pytest.raises(rcp.UserError, match="is no evaluation: .*No such file"):
        plugin.save_pretrained(tmp_path / "plugin", evaluation=tmp_path / "gone.json")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_a_hub_that_refuses_is_told(hub, plugin):
    for name in ("a/b/c", "a b", ""):
        with pytest.raises(rcp.UserError, match=f"does not take the plug-in as {name!r}"):
            plugin.push_to_hub(name)
    assert hub.repositories == {}


def test_names_and_order_of_arguments_are_those_of_the_mixin():
    """Except for what a plug-in has no use for; ``evaluation`` is our own."""
    for name in ("save_pretrained", "push_to_hub"):
        ours = inspect.signature(getattr(rcp.Plugin, name)).parameters
        theirs = inspect.signature(getattr(ModelHubMixin, name)).parameters
        for argument in set(ours) - {"evaluation", "push_arguments"}:
            assert ours[argument].kind == theirs[argument].kind, argument
            if argument != "commit_message":
                assert ours[argument].default == theirs[argument].default, argument


def test_a_warning_of_the_card_is_none(plugin, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugin.save_pretrained(tmp_path / "plugin")
    assert re.match("---\nbase_model: org/base\n", (tmp_path / "plugin" / "README.md").read_text())
