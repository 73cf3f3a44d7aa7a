"""The finished model as a folder that plain transformers loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaForConditionalGeneration, LlavaProcessor


def export_model(model: LlavaForConditionalGeneration, output: Path, processor: LlavaProcessor,
                 answer_tokens: int = 4) -> None:
    """Write fp16 weights, configuration and processor to `output`, replacing it at the end.

    Two renames, so that readers find a whole folder, the old one or the new one.
    """
    half = LlavaForConditionalGeneration(model.config)
    half.load_state_dict(model.state_dict())
    half.to(dtype=torch.float16, device="cpu")
    tokenizer = processor.tokenizer
    half.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, max_new_tokens=answer_tokens, do_sample=False)
    temporary = output.with_name(output.name + ".writing")
    old = output.with_name(output.name + ".old")
    for left_over in (temporary, old):
        shutil.rmtree(left_over, ignore_errors=True)
    half.save_pretrained(temporary)
    processor.save_pretrained(temporary)
    if output.exists():
        os.rename(output, old)
    os.rename(temporary, output)
    shutil.rmtree(old, ignore_errors=True)
