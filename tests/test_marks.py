"""Marks of provenance have a key, and a user reads words in their place."""

import ast
import io
import re
import tokenize

import pytest

import evaluate
import export
from rcp import commands
from rcp.__main__ import main
from rcp.training.run import cli
from tests.documents import ROOT, read

MARK = re.compile(r"(?<=[\s(])\[([a-z]+)\](?=[\s.,;:)]|$)")
SECTION = re.compile(r"\b(?:RCP|CoViPAL) §|§ ?\d")
KEY = set(re.findall(r"^\| `\[(\w+)\]` \|", read("docs/sources.md"), re.MULTILINE))
MODULES = sorted((ROOT / "rcp").rglob("*.py"))
READ_BY_USERS = ["README.md", "data/README.md", "CHANGELOG.md",
                 *(f"configs/{file.name}" for file in sorted((ROOT / "configs").glob("*.yaml")))]
INLINE = re.compile(r"`[^`\n]+`")


def marks(text: str) -> set[str]:
    """The marks in ``text``, and sections of documents that nobody has."""
    return set(MARK.findall(text)) | set(SECTION.findall(text))


def texts(source: str) -> tuple[str, str]:
    """Docstrings and comments of a module, and the other strings in it: messages and help."""
    tree, described = ast.parse(source), []
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            described.append(node.value)
    said = [node for node in nodes if isinstance(node, ast.Constant) and node not in described]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    docstrings = [str(node.value) for node in described]
    return "\n".join(docstrings + comments), "\n".join(str(node.value) for node in said)


@pytest.mark.parametrize("module", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_mark_has_a_key_and_no_message_has_one(module):
    described, said = texts(module.read_text("utf-8"))
    assert marks(described) <= KEY and not marks(said)


@pytest.mark.parametrize("document", READ_BY_USERS)
def test_a_text_for_users_says_it_in_words(document):
    assert not marks(INLINE.sub("", read(document)))


def test_every_key_is_used():
    text = "\n".join(texts(module.read_text("utf-8"))[0] for module in MODULES)
    assert KEY and KEY <= marks(text)


SHOWS = {
    "pruners": lambda: main(["pruners"]),
    "pruners as JSON": lambda: main(["pruners", "--json"]),
    "backbones": lambda: main(["backbones"]),
    "train.py --help": lambda: cli.run(["--help"]),
    "evaluate.py --help": lambda: evaluate.main(["--help"]),
    "export.py --help": lambda: export.main(["--help"]),
    **{f"{name} --help": lambda name=name: main([name, "--help"]) for name in commands.names()},
}


@pytest.mark.parametrize("command", SHOWS)
def test_a_command_says_it_in_words(command, capsys):
    try:
        SHOWS[command]()
    except SystemExit as end:
        assert not end.code
    said = capsys.readouterr().out
    assert said and not marks(said) - {"options"}  # of argparse


@pytest.mark.parametrize(("text", "found"), [
    ("learned [draft].", {"draft"}), ("(VAR [code] detects)", {"code"}), ("RCP §2", {"RCP §"}),
    ("list[int] and by [CLS]", set()), ("mean over samples. [ours]", {"ours"}),
])
def test_what_a_mark_is(text, found):
    assert marks(text) == found
