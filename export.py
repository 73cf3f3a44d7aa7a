"""Export a trained plug-in: `python export.py --checkpoint RUN/best.ckpt --output DIR`.

Writes plugin.safetensors, plugin.json and a model card, and reports success only after the folder
was read back and gave the same logits on its base model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rcp.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0, or 2 for input that is at fault."""
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="best.ckpt or last.ckpt of a run of train.py; with DeepSpeed these are folders",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--base",
        metavar="MODEL",
        help="folder or hub id of the frozen model, where it is no longer as named in training",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an exported plug-in")
    options = parser.parse_args(arguments)
    from rcp.training.export import export_checkpoint  # loads torch, which --help can do without

    try:
        plugin = export_checkpoint(
            options.checkpoint, options.output, options.overwrite, options.base
        )
    except UserError as error:
        print(f"export.py: {error}", file=sys.stderr)
        return 2
    print(
        f"Exported to {options.output}: {len(plugin.spec.stages)} pruning stages that keep "
        f"{plugin.mean_ratio:.2%} of the visual tokens, mean over {plugin.num_layers} layers. "
        "Read back with equal logits."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
