"""Export a trained plug-in.

Writes plugin.safetensors, plugin.json and a model card, and reports success only after the folder
was read back and gave the same logits on its base model.
"""

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True,
        help="best.ckpt or last.ckpt of a training; with DeepSpeed these are folders")
    add("--output", type=Path, required=True, help="folder to write")
    add("--base", metavar="MODEL",
        help="folder or hub id of the frozen model, where it is no longer as named in training")
    add("--evaluation", type=Path, metavar="JSON",
        help="what evaluate.py --output wrote of this plug-in, for its model card")
    add("--overwrite", action="store_true", help="replace an exported plug-in")


def run(options: argparse.Namespace) -> None:
    from rcp.training.export import export_checkpoint  # loads torch, which --help can do without

    plugin = export_checkpoint(
        options.checkpoint, options.output, options.overwrite, options.base, options.evaluation
    )
    print(
        f"Exported to {options.output}: {len(plugin.spec.stages)} pruning stages that keep "
        f"{plugin.mean_ratio:.2%} of the visual tokens, mean over {plugin.num_layers} layers. "
        "Read back with equal logits."
    )
