"""A base of LLaVA-1.5-7B's shape, as `from_pretrained` reads it: random weights, a processor."""

from pathlib import Path

import torch

from benchmarks.gpu.measuring import Figures, parsed
from benchmarks.gpu.shape import PATCH, random_model, shape_for
from tests.tiny_base import make_processor


def base_in(scratch: Path, tiny: bool) -> Path:
    """The folder of the base, written unless it is there."""
    folder = scratch / "base"
    if not folder.is_dir():
        shape, unfinished = shape_for(tiny), scratch / "unfinished"
        device, dtype = ("cpu", torch.float32) if tiny else ("cuda", torch.bfloat16)
        random_model(shape, device, dtype).save_pretrained(unfinished)
        make_processor(shape.side, PATCH).save_pretrained(unfinished)
        unfinished.rename(folder)
    return folder


def main() -> None:
    options = parsed("base_7b", __doc__)
    folder = base_in(options.scratch, options.tiny)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    Figures(options.output).add(GiB=size / 2**30)


if __name__ == "__main__":
    main()
