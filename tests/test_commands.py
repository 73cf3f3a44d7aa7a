"""`rcp` and `python -m rcp`: every file of rcp/commands is a subcommand that explains itself."""

import inspect
import json
import re
import subprocess
import sys

import pytest

import evaluate
import export
import train
from rcp import UserError, commands
from rcp.__main__ import console, main
from rcp.pruners import PRUNERS

SCRIPTS = {"train": train.main, "export": export.main, "evaluate": evaluate.main}


@pytest.mark.parametrize("name", commands.names())
def test_every_command_has_a_help_line_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
):
    assert re.match(r"[A-Z].*\.$", commands.about(name).partition("\n")[0])
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"python -m rcp {name}" in capsys.readouterr().out


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert commands.names() and all(name in text for name in commands.names())


def test_the_list_of_pruners_names_everything_registered(capsys: pytest.CaptureFixture[str]):
    assert main(["pruners", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == PRUNERS.names()
    assert main(["pruners"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == PRUNERS.names()


def test_a_pruner_is_listed_with_its_paper_and_needs(capsys: pytest.CaptureFixture[str]):
    main(["pruners"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("rcp ")]
    assert "2604.04972" in line and "needs question_attention" in line


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("debiased", "needs what the method needs that it wraps"),
        ("without_sinks", "needs layer_input, what the method needs that it wraps"),
    ],
)
def test_a_wrapper_needs_what_it_wraps(name: str, needs: str, capsys: pytest.CaptureFixture[str]):
    main(["pruners"])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith(f"{name} ")]
    assert line.endswith(needs)
    inner = PRUNERS.get("sparsevlm")(8)
    wrapped = PRUNERS.get(name)(8, method="sparsevlm")
    assert wrapped.needs == PRUNERS.get(name).needs | inner.needs and wrapped.uses == inner.uses


@pytest.mark.parametrize("name", PRUNERS.names())
def test_what_a_pruner_declares_is_what_it_takes(name: str):
    pruner = PRUNERS.get(name)
    taken = inspect.signature(pruner).parameters
    assert pruner.can_be_blind == ("blind" in taken)
    assert pruner.draws == ("seed" in taken)
    assert pruner.wraps == ("method" in taken)
    if not pruner.wraps:  # else the class does not say what its object needs
        assert (pruner(16).needs, pruner(16).uses) == (pruner.needs, pruner.uses)


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["prunners"])
    assert end.value.code == 2
    assert "pruners" in capsys.readouterr().err


def test_bad_input_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(*_: object) -> None:
        raise UserError("The moon is not cheese.")

    monkeypatch.setattr("rcp.commands.pruners.run", refuse)
    assert main(["pruners"]) == 2
    assert capsys.readouterr().err == "python -m rcp pruners: The moon is not cheese.\n"


def test_only_a_command_with_overrides_takes_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
):
    with pytest.raises(SystemExit):
        main(["backbones", "--model.base", "x"])
    assert capsys.readouterr().err == (
        "python -m rcp backbones: unrecognized arguments: --model.base x. "
        "See python -m rcp backbones --help.\n"
    )


def test_one_command_does_not_import_the_others():
    """The lists stay quick whatever heavy packages other commands need."""
    code = (
        "import sys; from rcp.__main__ import main; main(['pruners']);"
        "print([m for m in ('pytorch_lightning', 'datasets', 'rcp.commands.backbones') "
        "if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("former", "name"), commands.FORMER.items())
def test_a_former_name_still_works_and_says_the_present_one(
    former: str, name: str, capsys: pytest.CaptureFixture[str]
):
    assert name in commands.names() and former not in commands.names()
    with pytest.raises(SystemExit, match="0"):
        main([former, "--help"])
    told = capsys.readouterr()
    assert told.err == f"python -m rcp {former} is called {name} now.\n"
    assert f"python -m rcp {name} " in told.out


def calls(name):
    """The ways to call a command, each with what a user has typed for it."""
    yield (lambda *line: main([name, *line])), f"python -m rcp {name}"
    yield (lambda *line: main([name, *line], "rcp")), f"rcp {name}"
    if name in SCRIPTS:
        yield (lambda *line: SCRIPTS[name](line)), f"{name}.py"


def outcome(call, line, capsys):
    """Exit status, and what was said."""
    try:
        status = call(*line)
    except SystemExit as end:
        status = end.code
    return status or 0, capsys.readouterr()


@pytest.mark.parametrize("name", commands.names())
def test_help_and_refusals_name_what_was_typed(name: str, capsys: pytest.CaptureFixture[str]):
    helps = set()
    for call, typed in calls(name):
        status, said = outcome(call, ["--help"], capsys)
        assert status == 0 and said.out.startswith(f"usage: {typed} [")
        helps.add(" ".join(said.out.split()).replace(typed, "TYPED"))
        status, said = outcome(call, ["--no.such.option"], capsys)
        assert status == 2 and said.err.startswith(f"{typed}: ")
    assert len(helps) == 1


@pytest.mark.parametrize("former", commands.FORMER)
def test_a_former_name_is_known_to_the_console_script(
    former: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/rcp", former, "--help"])
    status, said = outcome(console, [], capsys)
    assert status == 0 and said.err == f"rcp {former} is called {commands.FORMER[former]} now.\n"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_and_its_command_refuse_the_same_thing(
    name: str, tmp_path, capsys: pytest.CaptureFixture[str]
):
    nowhere = str(tmp_path / "nothing")
    line = {
        "train": ["--config", nowhere],
        "export": ["--checkpoint", nowhere, "--output", str(tmp_path / "plugin")],
        "evaluate": ["--plugin", nowhere, "--data", nowhere],
    }[name]
    told = [(outcome(call, line, capsys), typed) for call, typed in calls(name)]
    said = {(status, said.err.removeprefix(f"{typed}: ")) for (status, said), typed in told}
    ((status, paragraph),) = said
    assert status == 2 and nowhere in paragraph and len(paragraph.splitlines()) == 1


def test_without_a_command_the_commands_are_named(capsys: pytest.CaptureFixture[str]):
    status, said = outcome(main, [[], "rcp"], capsys)
    assert status == 2 and said.err == (
        "rcp: the following arguments are required: COMMAND. See rcp --help.\n"
    )
