"""The training of configs/rcp_llava.yaml on one batch, over and over: its data and its fields."""

from pathlib import Path

from benchmarks.gpu.shape import TEXT
from benchmarks.variants import (
    CONFIGS,
    Configuration,
    changed,
    read_configuration,
)
from tests.tiny_base import WORDS, conversation, write_conversations

BATCH = 8
STEPS, FEW = 20, 6
"""Of a training, and in small."""

ANSWER = "two " * 7
ANSWER_TOKENS = 8
"""Rows with logits: the words of the answer, and its end."""

AROUND = 5
"""Tokens that a prompt has beside image, question and answer: <s> USER : ASSISTANT :"""

MONITOR = "pytorch_lightning.callbacks.DeviceStatsMonitor"


def write_batch(folder: Path) -> Path:
    """``BATCH`` conversations of ``TEXT`` tokens beside their images: an epoch is one step."""
    words = TEXT - AROUND - ANSWER_TOKENS
    rows = []
    for number in range(BATCH):
        asked = " ".join(WORDS[(number + place) % len(WORDS)] for place in range(words))
        turns = [{"from": "human", "value": f"<image>\n{asked}"},
                 {"from": "gpt", "value": ANSWER.strip()}]
        rows.append(conversation(number, conversations=turns))
    return write_conversations(folder / "batch.json", rows)


def recipe(base: Path, data: Path, device: str) -> Configuration:
    """One device, nothing but steps: no validation, no noise, the whole learning rate."""
    cuda = device == "cuda"
    return changed(read_configuration(CONFIGS / "rcp_llava.yaml"), {
        "model.base": str(base),
        "model.dtype": "bfloat16" if cuda else "float32",
        "model.temperature.noise": 0.0,
        "model.optimizer.learning_rate": 1e-3,
        "model.optimizer.warmup": 0.0,
        "model.gradient_shares_every": 0,
        "data.train": str(data),
        "data.val": str(data),
        "data.batch_size": BATCH,
        "data.num_workers": 0,
        "trainer.accelerator": "gpu" if cuda else "cpu",
        "trainer.devices": 1,
        "trainer.precision": "bf16-mixed" if cuda else "32-true",
        "trainer.max_epochs": -1,
        "trainer.max_steps": STEPS if cuda else FEW,
        "trainer.accumulate_grad_batches": 1,
        "trainer.val_check_interval": 1.0,
        "trainer.limit_val_batches": 0,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": False,
        "trainer.callbacks": [{"class_path": MONITOR}],
    })
