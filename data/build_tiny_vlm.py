"""Make data/tiny-vlm: `python -m data.build_tiny_vlm`. Run it again to resume after a cut.

Stages: vision tower on dense labels, projector onto word vectors, decoder by a curriculum that
ends with growth from 8 to 24 layers, export in fp16.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path

import torch

from data.scenes import sample_scenes
from data.tiny_vlm_training.decoder import train_decoder
from data.tiny_vlm_training.export import export_model
from data.tiny_vlm_training.memory import keep_freed_memory
from data.tiny_vlm_training.model import build_model
from data.tiny_vlm_training.processor import make_processor, make_tokenizer
from data.tiny_vlm_training.projector import align, label_vectors
from data.tiny_vlm_training.settings import TRUNK_LAYERS
from data.tiny_vlm_training.state import load_state, save_state
from data.tiny_vlm_training.tower import train_tower


def main() -> None:
    """Run whatever stages the state folder does not hold yet."""
    parser = argparse.ArgumentParser(prog="python -m data.build_tiny_vlm", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("data/tiny-vlm"),
                        help="folder to write the model to; replaced when done")
    parser.add_argument("--state", type=Path, default=Path("runs/tiny_vlm"),
                        help="folder of training states, by which a run resumes")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and questions")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads is {arguments.threads}: it must be 1 or more, e.g. --threads 2.")
    keep_freed_memory()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    tower, heads = train_tower(arguments.state / "tower.pt", arguments.seed, device)
    tokenizer = make_tokenizer()
    model = build_model(tokenizer, TRUNK_LAYERS, tower).to(device)
    aligned = load_state(arguments.state / "aligned.pt")
    if aligned is None:
        align(model, heads, tokenizer, sample_scenes("train", arguments.seed + 1), device)
        save_state(arguments.state / "aligned.pt", model=model.state_dict(),
                   heads=heads.state_dict())
    else:
        model.load_state_dict(aligned["model"])
        heads.load_state_dict(aligned["heads"])
    tables = label_vectors(model.get_input_embeddings().weight.detach().cpu(), tokenizer)
    train_decoder(model, heads, tokenizer, tables, arguments.state / "decoder.pt",
                  arguments.seed + 2, device,
                  partial(export_model, output=arguments.output, processor=make_processor()))


if __name__ == "__main__":
    main()
