"""evaluate.py from its arguments to its file, and every input it refuses."""

import json
import shutil

import pytest
from transformers import AutoModelForImageTextToText

import evaluate
import rcp
from tests.tiny import RCP_ARGUMENTS, randomised
from tests.tiny_base import TOKENS, conversation, make_model, make_processor, write_conversations

pytest_plugins = ["tests.training_fixtures"]


@pytest.fixture(scope="module")
def plugins(base_folder, tmp_path_factory):
    """Two seeds of RCP, and the same at another schedule."""
    folder = tmp_path_factory.mktemp("plugins")
    model = AutoModelForImageTextToText.from_pretrained(base_folder)
    for name, seed, ratio in (("first", 1, 0.25), ("second", 2, 0.25), ("other", 1, 0.5)):
        spec = rcp.PluginSpec([rcp.StageSpec(1, ratio, "rcp", dict(RCP_ARGUMENTS))])
        plugin = randomised(rcp.Plugin.for_model(spec, model), seed)
        plugin.base.name_or_path = str(base_folder)
        rcp.save_plugin(plugin, folder / name)
    return folder


@pytest.fixture
def command(base_folder, conversations, plugins, tmp_path, capsys):
    """Run evaluate.py; {placeholders} name the fixtures' folders. Returns status and messages."""
    places = {"base": base_folder, "data": conversations, "plugins": plugins, "tmp": tmp_path}
    usual = {"--data": "{data}", "--output": "{tmp}/rows.json", "--max-new-tokens": "2"}

    def run(line):
        arguments = line.split()
        for option, value in usual.items():
            if option not in arguments:
                arguments += [option, value]
        try:
            status = evaluate.main([argument.format(**places) for argument in arguments])
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr()

    return run


def rows_of(folder, name="rows.json"):
    return {row["method"]: row for row in json.loads((folder / name).read_text())}


def test_two_seeds_and_all_controls(command, tmp_path):
    status, said = command("--plugin {plugins}/first {plugins}/second --seeds 2 --batch-size 3")
    assert status == 0
    rows = rows_of(tmp_path)
    assert rows["rcp"]["seeds"] == rows["random"]["seeds"] == 2
    assert rows["full"]["mean_tokens"] == TOKENS and rows["rcp"]["mean_tokens"] == 7.0
    assert rows["random_input"]["entering_tokens"] == 7.0
    assert all(method in said.out for method in rows)
    assert "1.00x" in said.out and "counting" in said.out and "by the formula" in said.out


def test_further_plugins_get_rows_of_their_own(command, tmp_path):
    line = "--plugin {plugins}/first --compare wide={plugins}/other twin={plugins}/second"
    status, _ = command(f"{line} --no-controls --limit 3")
    assert status == 0
    rows = rows_of(tmp_path)
    assert list(rows) == ["full", "rcp", "wide", "twin"]
    assert rows["wide"]["mean_tokens"] == 10.0 and rows["wide"]["n"] == 3


@pytest.mark.parametrize("budget", ["4", "0.25"])
def test_a_pruner_without_training(command, tmp_path, budget):
    line = f"--pruner question_attention --budget {budget} --base {{base}} --no-controls"
    assert command(line)[0] == 0
    assert rows_of(tmp_path)["question_attention"]["entering_tokens"] == 4.0


def test_a_folder_stands_for_its_one_file(command, conversations, tmp_path):
    status, _ = command(f"--plugin {{plugins}}/first --no-controls --data {conversations.parent}")
    assert status == 0 and rows_of(tmp_path)["full"]["n"] == 8


REFUSED = {
    "nothing to evaluate": ("--base {base}", "--plugin and --pruner"),
    "two things to evaluate": ("--plugin {plugins}/first --pruner random --budget 4", "both"),
    "a pruner without budget": ("--pruner random --base {base}", "--budget"),
    "a budget not trained for": ("--plugin {plugins}/first --budget 4", "the one budget of"),
    "unknown pruner": ("--pruner best --budget 4 --base {base}", "question_attention"),
    "untrained pruner": ("--pruner rcp --budget 4 --base {base}", "--plugin"),
    "no budget at all": ("--pruner random --budget 0 --base {base}", "1 to 16"),
    "budget above N": ("--pruner random --budget 17 --base {base}", "1 to 16"),
    "infeasible budget": ("--pruner random --budget 4 --layers 2 --base {base}", "out of reach"),
    "layer beyond the model": ("--pruner random --budget 4 --layers 9 --base {base}", "0 to 3"),
    "layers of a plug-in": ("--plugin {plugins}/first --layers 2", "has its own stages"),
    "a wipe of a plug-in": ("--plugin {plugins}/first --wiped-from 3", "has its own stages"),
    "a wipe that leaves too little": (
        "--pruner random --budget 12 --layers 0 --wiped-from 2 --base {base}", "can hold, 50.00%"
    ),
    "no base": ("--pruner random --budget 4", "--base"),
    "missing base": ("--pruner random --budget 4 --base {tmp}/none", "cannot be loaded"),
    "missing plug-in": ("--plugin {tmp}/none", "plugin.json"),
    "missing data": ("--plugin {plugins}/first --data {tmp}/none.json", "none.json"),
    "empty folder of data": ("--plugin {plugins}/first --data {plugins}", "0 JSON files"),
    "different schedules": ("--plugin {plugins}/first {plugins}/other", "seeds of one method"),
    "nameless comparison": ("--plugin {plugins}/first --compare {plugins}/other", "NAME=FOLDER"),
    "a name taken": ("--plugin {plugins}/first --compare rcp={plugins}/other", "already"),
    "the full model's": ("--plugin {plugins}/first --compare full={plugins}/other", "already"),
    "a control's": ("--plugin {plugins}/first --compare random={plugins}/other", "already"),
    "limit": ("--plugin {plugins}/first --limit 0", "--limit is 0"),
    "batch size": ("--plugin {plugins}/first --batch-size -1", "--batch-size is -1"),
    "seeds": ("--plugin {plugins}/first --seeds 0", "--seeds is 0"),
    "not a number": ("--plugin {plugins}/first --limit ten", "ten"),
    "unknown option": ("--plugin {plugins}/first --retain 3", "--retain"),
    "output is a folder": ("--plugin {plugins}/first --output {tmp}", "is a folder"),
    "output in no place": ("--plugin {plugins}/first --output /proc/rows.json", "'/proc'"),
}


def assert_refused(status, said, *words):
    """One paragraph; progress bars, which return to the start of the line, may come before it."""
    assert status == 2 and said.out == ""
    assert "Traceback" not in said.err
    message = said.err.rstrip("\n").rpartition("\r")[2].splitlines()[-1]
    assert message.startswith("evaluate.py: ") and said.err.endswith(f"{message}\n")
    assert all(word in message for word in words)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line, word", REFUSED.values(), ids=REFUSED)
def test_bad_arguments(command, tmp_path, line, word):
    status, said = command(line)
    assert_refused(status, said, word)
    assert not (tmp_path / "rows.json").exists()


def missing_image(row, folder):
    row["image"] = "images/lost.png"


def unreadable_image(row, folder):
    (folder / "images" / "broken.png").write_bytes(b"\x89PNG not really")
    row["image"] = "images/broken.png"


def truncated_image(row, folder):
    whole = (folder / "images" / "0.png").read_bytes()
    (folder / "images" / "half.png").write_bytes(whole[: len(whole) // 2])
    row["image"] = "images/half.png"


def no_placeholder(row, folder):
    row["conversations"][0]["value"] = "how many ?"


def two_images(row, folder):
    row["image"] = ["images/0.png", "images/1.png"]


def answer_with_a_placeholder(row, folder):
    row["conversations"][1]["value"] = "two <image>"


DAMAGE = {
    missing_image: "lost.png",
    unreadable_image: "broken.png",
    truncated_image: "half.png",
    no_placeholder: "<image>",
    two_images: "2 image(s)",
    answer_with_a_placeholder: "in its answer",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("damage, word", DAMAGE.items(), ids=lambda value: str(value)[:20])
def test_bad_data(command, tmp_path, damage, word):
    """One row of two, in the last batch: it is marked, and the scores say of how many they are."""
    row = conversation(1)
    path = write_conversations(tmp_path / "bad" / "all.json", [])
    damage(row, path.parent)
    path.write_text(json.dumps([conversation(0), row]))
    line = f"--plugin {{plugins}}/first --data {path} --batch-size 1 --seeds 1"
    status, said = command(line)
    assert status == 0
    for found in rows_of(tmp_path).values():
        assert found["n"] == 1 and found["unreadable"] == ["sample-1"]
        assert list(found["by_type"]) == ["attribute"]
    assert "The scores are of 1 of 2 questions: 1 could not be read ('sample-1')." in said.out
    assert word in said.out
    (tmp_path / "rows.json").unlink()
    path.write_text(json.dumps([row]))
    status, said = command(line)
    assert_refused(status, said, "sample-1", word)
    assert not list(tmp_path.glob("rows.[jp]*"))  # neither rows nor what to go on from


def test_a_plugin_of_another_base(command, tmp_path):
    other = make_model()
    other.get_input_embeddings().weight.data.add_(1.0)
    other.save_pretrained(tmp_path / "other")
    make_processor().save_pretrained(tmp_path / "other")
    status, said = command("--plugin {plugins}/first --base {tmp}/other")
    assert_refused(status, said, "another base")
    assert not (tmp_path / "rows.json").exists()


def cut_weights(base):
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def strange_sizes(base):
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["hidden_size"] = "many"
    (base / "config.json").write_text(json.dumps(config))


def strange_tokens(base):
    (base / "tokenizer.json").write_text("{}")


def own_code(base):
    classes = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    (base / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": classes}))
    (base / "own.py").write_text(f"open({str(base / 'was_run')!r}, 'w')")


@pytest.mark.parametrize("damage", [cut_weights, strange_sizes, strange_tokens, own_code])
def test_a_damaged_base(command, base_folder, tmp_path, damage):
    shutil.copytree(base_folder, tmp_path / "base")
    damage(tmp_path / "base")
    status, said = command("--plugin {plugins}/first --base {tmp}/base")
    assert_refused(status, said, f"'{tmp_path / 'base'}' cannot be loaded")
    assert not (tmp_path / "base" / "was_run").exists()


def test_a_truncated_plugin(command, plugins, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "plugin.json").write_text((plugins / "first" / "plugin.json").read_text())
    whole = (plugins / "first" / "plugin.safetensors").read_bytes()
    (cut / "plugin.safetensors").write_bytes(whole[:-100])
    status, said = command("--plugin {tmp}/cut")
    assert_refused(status, said, "truncated", "export it again")
