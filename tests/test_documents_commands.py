"""Every command in the texts for readers is one that its own parser takes, and stops there."""

import argparse
import ast
import contextlib
import importlib.util
import io
import re
import runpy
import shlex
import sys
from types import SimpleNamespace

import pytest

import evaluate
import export
from rcp import commands
from rcp.__main__ import main
from rcp.training.run import cli
from tests.documents import DOCUMENTS, ROOT, blocks, prose, read

INLINE = re.compile(r"`([^`\n]+)`")
STANDS_FOR = {"COMMAND"}
"""Words in place of a name that a reader is to choose."""


class Parsed(BaseException):
    """The arguments were taken; what would come of them is not wanted here."""


def in_blocks(document):
    text = "\n".join(block.text for block in blocks(document, "bash")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def in_prose(document):
    found = INLINE.findall(prose(document))
    return [code for code in found if re.match(r"(python|make|sbatch|git|rcp) ", code)]


LINES = [(name, line) for name in DOCUMENTS for line in in_blocks(name) + in_prose(name)]


@pytest.fixture
def parsing_only(monkeypatch):
    """Ends every command where its arguments are understood."""

    def stop(parse):
        def parse_args(*arguments, **named):
            parse(*arguments, **named)
            raise Parsed

        return parse_args

    def stopped(_):
        raise Parsed

    def command(name):
        return SimpleNamespace(configure=found(name).configure, run=stopped)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args",
                        stop(argparse.ArgumentParser.parse_args))
    monkeypatch.setattr(cli.TrainingCLI, "before_instantiate_classes", stopped)
    found = commands.command
    monkeypatch.setattr(commands, "command", command)
    monkeypatch.chdir(ROOT)


def python(words, monkeypatch):
    """What follows `python`: a script of the root, or a module."""
    match words:
        case ["train.py", *arguments]:
            cli.run(arguments)
        case ["evaluate.py", *arguments]:
            evaluate.main(arguments)
        case ["export.py", *arguments]:
            export.main(arguments)
        case ["-m", "rcp", *arguments]:
            ours(arguments)
        case ["-m", "pip", "install", *arguments]:
            pip(arguments)
        case ["-m", "pytest" | "mypy", *arguments]:
            files = [one.partition("::")[0] for one in arguments if one.startswith("tests")]
            assert all((ROOT / file).exists() for file in files)
        case ["-m", module, *arguments]:
            assert importlib.util.find_spec(module), f"there is no module {module}"
            if arguments:
                monkeypatch.setattr(sys, "argv", [module, *arguments])
                runpy.run_module(module, run_name="__main__")
        case _:
            pytest.fail(f"python {words}: not a script of this repository")


def ours(arguments):
    """What follows `rcp`; a name may stand alone, without what it needs."""
    if len(arguments) == 1:
        assert arguments[0] in commands.names()
    else:
        assert STANDS_FOR & set(arguments) or main(arguments) == 0


def harness(words):
    """Our model by its name, with arguments that its class takes."""
    tree = ast.parse(read("rcp/harness/adapter.py"))
    (model,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Rcp"]
    made = next(node for node in model.body if getattr(node, "name", "") == "__init__")
    given = dict(zip(words, words[1:]))
    named = {pair.partition("=")[0] for pair in given["--model_args"].split(",")}
    assert given["--model"] == "rcp" and named <= {argument.arg for argument in made.args.args}


def pip(arguments):
    """The extras named are those of setup.cfg."""
    declared = set(re.findall(r"^(\w+) =$", read("setup.cfg"), re.MULTILINE))
    extras = re.findall(r"\[(.+)\]", " ".join(arguments))
    assert extras and set(extras[0].split(",")) <= declared


def make(words):
    """Targets of the Makefile, and the variables it asks for."""
    rules = read("Makefile")
    for word in words:
        name, equals, _ = word.partition("=")
        assert f"$({name})" in rules or f"$(if $({name})" in rules if equals else (
            re.search(rf"^{name}:", rules, re.MULTILINE)
        ), word


@pytest.mark.parametrize(("document", "line"), LINES)
def test_a_command_is_taken_by_its_own_parser(document, line, parsing_only, monkeypatch):
    program, *words = shlex.split(line, comments=True)
    with contextlib.suppress(Parsed, *([SystemExit] if "--help" in words else [])):
        match program:
            case "python":
                python(words, monkeypatch)
            case "rcp":
                ours(words)
            case "lmms-eval" | "accelerate":
                harness(words)
            case "make":
                make(words)
            case "sbatch" | "bash":
                assert (ROOT / words[0]).exists()
            case "git":
                assert words[0] in {"add", "clone", "commit", "config"}
            case ".ci/run":
                assert (ROOT / program).exists() and not words
            case _:
                pytest.fail(f"'{program}': say in this test how it is checked")


@pytest.fixture(scope="module")
def offered():
    """Every option there is, from the help of each command."""
    helps = [lambda: cli.run(["--help"]), lambda: evaluate.main(["--help"]),
             lambda: export.main(["--help"])]
    helps += [lambda name=name: main([name, "--help"]) for name in commands.names()]
    said = io.StringIO()
    for show in helps:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            show()
    return set(re.findall(r"--[a-z][\w.-]*\w", said.getvalue()))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_an_option_that_a_text_names_is_offered(document, offered):
    named = {
        option
        for code in INLINE.findall(prose(document))
        if not re.match(r"(python -m (data|benchmarks|pip|pytest)|git|vllm|lmms-eval) ?", code)
        for option in re.findall(r"(?<!\S)--[a-z][\w.-]*\w", code)
    }
    assert not named - offered - {"--help", "--threads"}
