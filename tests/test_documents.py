"""What the texts for readers say is there is there: blocks, links, the tree, the methods."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from data.generate import generate
from rcp.conversations.reader import ConversationDataset
from rcp.pruners import PRUNERS
from tests.documents import DOCUMENTS, ROOT, blocks, prose, read

LANGUAGES = {"python", "bash", "json", "text"}


@pytest.fixture
def in_a_clone(tmp_path, monkeypatch):
    """A folder with what is committed under data/, and nothing that was made since."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    PRUNERS._classes.pop("norm", None)


def test_every_block_says_what_it_is():
    """A language no test here executes, parses or compares would be a block that nobody reads."""
    assert {block.language for name in DOCUMENTS for block in blocks(name)} <= LANGUAGES


def test_python_of_the_readme_runs_in_order(in_a_clone, capsys):
    names: dict[str, object] = {"__name__": "readme"}
    first, *others = blocks("README.md", "python")
    exec(compile(first.text, "README.md", "exec"), names)
    assert capsys.readouterr().out.strip() == "white"
    attached = names["model"]
    for block in others:
        exec(compile(block.text, "README.md", "exec"), names)
    assert "norm" in PRUNERS.names()
    model, processor, inputs = (names[name] for name in ("model", "processor", "inputs"))
    assert model is not attached and model.config.model_type == "llava"
    cache = model(**inputs).past_key_values
    first, last = cache.layers[0].keys.shape[2], cache.layers[-1].keys.shape[2]
    text = inputs["input_ids"].shape[1] - 144
    assert (first, last) == (text + 18, text + 14) and processor.tokenizer is not None


def test_python_of_the_page_on_towers_runs(in_a_clone):
    (block,) = blocks("docs/tower.md", "python")
    exec(compile(block.text, "docs/tower.md", "exec"), {"__name__": "tower"})
    spec = json.loads(Path("tower/plugin.json").read_text("utf-8"))["plugin"]
    assert spec["tower"] == {"blocks": [1, 2, 3], "keep": 0.7}


def test_python_of_the_data_readme_runs(in_a_clone):
    names: dict[str, object] = {}
    for block in blocks("data/README.md", "python"):
        exec(compile(block.text, "data/README.md", "exec"), names)
    model = names["model"]
    assert len(model.get_decoder().layers) == 24 and model.config.text_config.hidden_size == 96
    assert names["processor"].image_token == "<image>"


def test_json_of_the_data_readme_is_read(tmp_path):
    """The example of the schema, as a file beside the picture it names."""
    (block,) = blocks("data/README.md", "json")
    row = json.loads(block.text)
    generate(tmp_path / "made", "train", 1, 0, 1, ("odd_one_out",))
    (tmp_path / "made" / "rows.json").write_text(json.dumps([row]))
    sample = ConversationDataset(tmp_path / "made" / "rows.json")[0].sample
    assert sample.answer == "red" and sample.question_type == "relation"


@pytest.mark.parametrize("name", ["rcp/backbones/cohere2_vision.py",
                                  "tests/families/cohere2_vision.py"])
def test_the_recipe_for_a_family_shows_whole_files(name):
    assert read(name) in [block.text for block in blocks("CONTRIBUTING.md", "python")]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document):
    """Files from where the text lies, and headings in them as GitHub names them."""
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = ((ROOT / document).parent / name).resolve() if name else ROOT / document
        if not path.exists() or anchor and anchor not in _headings(path):
            lost.append(target)
    assert not lost


def _headings(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def tree() -> set[str]:
    """The paths that the tree of the README names; words behind two spaces are what they are."""
    (block,) = blocks("README.md", "text")
    found, above = set(), [""]
    for line in block.text.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent > 10:  # a sentence goes on
            continue
        del above[indent // 2 + 1 :]
        names = re.split(r" {2,}", line.strip())[0].split()
        found |= {above[-1] + name for name in names}
        above.append(above[-1] + names[0])
    return found


def test_the_tree_is_that_on_disk():
    """All that it names is there; all at the root, in rcp/ and each of its rooms is named."""
    named = tree()
    assert not {path for path in named if not (ROOT / path).exists()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = listed.stdout.splitlines()
    here = {re.match(r"[^/]+/?", name)[0] for name in files}
    here |= {name for name in files if re.fullmatch(r"rcp/[a-z]\w*\.py", name)}
    here |= {str(Path(name).parent) + "/" for name in files if re.match("rcp/.*__init__", name)}
    named |= {re.match(r"[^/]+/?", path)[0] for path in named}
    assert not here - named - {"README.md"}, "draw it into the tree of README.md"


def test_every_method_has_its_row():
    """And with the paper that `python -m rcp pruners` gives."""
    table = read("README.md").partition("## Methods")[2].partition("### Add one")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    papers = {name: row for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert sorted(papers) == [n for n in PRUNERS.names() if "." in PRUNERS.get(n).__module__]
    for name, row in papers.items():
        number = re.search(r"arXiv [\d.]+", PRUNERS.get(name).paper)
        assert number is None or number[0] in row or "control" in row


def test_the_readme_counts_the_families_of_the_table():
    page, readme = read("docs/backbones.md"), " ".join(read("README.md").split())
    sections = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", page, re.M | re.S))
    counts = {name: len(re.findall(r"^\| `(?!model_type)", rows, re.M))
              for name, rows in sections.items()}
    assert (counts["Supported"], counts["Supported before the decoder"]) == (50, 9)
    assert "Fifty types of models, from" in readme and "; nine more, such as" in readme
