"""Export a trained plug-in.

Writes plugin.safetensors, plugin.json and a model card, and reports success only after the folder
was read back and gave the same logits on its base model.
"""

import argparse
from pathlib import Path

from rcp.errors import UserError


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True,
        help="best.ckpt or last.ckpt of a training; with DeepSpeed these are folders; for "
        "--format onnx also an exported plug-in")
    add("--output", type=Path, required=True, help="folder, or ONNX file, to write")
    add("--format", choices=("plugin", "onnx"), default="plugin",
        help="onnx: what the first stage scores by, alone, for other engines: see docs/engines.md")
    add("--base", metavar="MODEL",
        help="folder or hub id of the frozen model, where it is no longer as named in training")
    add("--evaluation", type=Path, metavar="JSON",
        help="what evaluate.py --output wrote of this plug-in, for its model card")
    add("--overwrite", action="store_true", help="replace an exported plug-in, or an ONNX file")


def run(options: argparse.Namespace) -> None:
    if options.format == "onnx" and (options.base or options.evaluation):
        raise UserError("--format onnx writes weights alone: leave out --base and --evaluation.")
    # loads torch, which --help can do without
    from rcp.training.export import export_checkpoint, export_scorer

    if options.format == "onnx":
        export_scorer(options.checkpoint, options.output, options.overwrite)
        print(f"Written to {options.output}. Read back by onnxruntime with equal scores.")
        return
    plugin = export_checkpoint(
        options.checkpoint, options.output, options.overwrite, options.base, options.evaluation
    )
    print(
        f"Exported to {options.output}: {len(plugin.spec.stages)} pruning stages that keep "
        f"{plugin.mean_ratio:.2%} of the visual tokens, mean over {plugin.num_layers} layers. "
        "Read back with equal logits."
    )
