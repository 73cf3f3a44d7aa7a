"""Stage 1: a CLIP vision tower that learns to say, per visual token, what is there.

[CLS] is trained as well, on image-level labels, so that methods which read its attention have a
fair chance on this model.
"""

from __future__ import annotations

import logging
import time
from itertools import islice
from pathlib import Path
from typing import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from data.drawing import draw_scenes
from data.labels import IMAGE_CLASSES, PATCH_CLASSES, stack_labels
from data.scenes import IMAGE_SIZE, PATCH, Scene, sample_scenes
from data.tiny_vlm_training.schedule import make_optimizer, set_rate
from data.tiny_vlm_training.settings import HEADS, TOWER, TOWER_LAYERS, TOWER_MLP, WIDTH
from data.tiny_vlm_training.state import load_state, save_state
from data.tiny_vlm_training.tower_init import initialise_tower

log = logging.getLogger(__name__)
CLS_WEIGHT = 0.5


def tower_config() -> CLIPVisionConfig:
    """4 layers, 96 wide, 96 x 96 pixels in patches of 8."""
    return CLIPVisionConfig(hidden_size=WIDTH, intermediate_size=TOWER_MLP,
                            num_hidden_layers=TOWER_LAYERS, num_attention_heads=HEADS,
                            image_size=IMAGE_SIZE, patch_size=PATCH, projection_dim=WIDTH,
                            hidden_act="quick_gelu")


class TowerHeads(nn.Module):
    """Linear read-outs of the labels; discarded after training."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH, sum(PATCH_CLASSES.values()))
        self.image = nn.Linear(WIDTH, sum(IMAGE_CLASSES.values()))

    def losses(self, output: torch.nn.Module, patches: torch.Tensor, images: torch.Tensor,
               ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Mean patch loss, mean [CLS] loss, and accuracies on non-empty labels by name."""
        patch_logits = self.patch(output.last_hidden_state[:, 1:])
        image_logits = self.image(output.pooler_output)
        patch_loss, accuracy = _classify(patch_logits, patches, PATCH_CLASSES, True)
        image_loss, of_image = _classify(image_logits, images, IMAGE_CLASSES, False)
        accuracy["cls counts"] = sum(v for k, v in of_image.items() if "count" in k) / 18
        accuracy["cls cells"] = sum(v for k, v in of_image.items() if "cell" in k) / 3
        return patch_loss, image_loss, accuracy


def _balanced(target: torch.Tensor) -> torch.Tensor:
    """Weights (sum 1) by which "nothing" and "something" count the same.

    Only 4 of 144 tokens show the odd one out: unweighted, its label is learned last or never.
    """
    something = (target > 0).float()
    nothing = 1 - something
    return 0.5 * (something / something.sum().clamp(min=1) + nothing / nothing.sum().clamp(min=1))


def _classify(logits: torch.Tensor, labels: torch.Tensor, classes: dict[str, int], balance: bool,
              ) -> tuple[torch.Tensor, dict[str, float]]:
    losses, accuracy = [], {}
    for index, (name, part) in enumerate(zip(classes, logits.split(list(classes.values()), -1))):
        target = labels[..., index]
        loss = F.cross_entropy(part.flatten(0, -2), target.flatten(), reduction="none")
        weights = _balanced(target) if balance else torch.full_like(loss, 1 / len(loss))
        losses.append((loss * weights.flatten()).sum())
        right = (part.detach().argmax(-1) == target)[(target > 0) | (not balance)].float()
        accuracy[name] = right.mean().item() if len(right) else 1.0
    return torch.stack(losses).mean(), accuracy


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """(n, 96, 96, 3) uint8 to (n, 3, 96, 96) in [-1, 1], as the image processor does it."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def labelled_batch(scenes: Iterator[Scene], count: int, device: torch.device,
                   ) -> tuple[list[Scene], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes, pixels (n, 3, 96, 96), patch labels and image labels."""
    batch = list(islice(scenes, count))
    patches, images = stack_labels(batch)
    pixels = to_pixels(torch.from_numpy(draw_scenes(batch)).to(device))
    return (batch, pixels, torch.from_numpy(patches).to(device),
            torch.from_numpy(images).to(device))


def train_tower(path: Path, seed: int, device: torch.device,
                ) -> tuple[CLIPVisionModel, TowerHeads]:
    """Train from `path`'s state if there is one, saving to it every 100 steps."""
    tower, heads = CLIPVisionModel(tower_config()).to(device), TowerHeads().to(device)
    initialise_tower(tower)
    optimizer = make_optimizer([tower, heads], weight_decay=0.05)
    state, start = load_state(path), 0
    if state is not None:
        tower.load_state_dict(state["tower"])
        heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    scenes = sample_scenes("train", seed + start)  # a resumed run goes on with scenes of its own
    clock = time.time()
    for step in range(start, TOWER.steps):
        _, pixels, patches, images = labelled_batch(scenes, TOWER.images, device)
        set_rate(optimizer, TOWER.rate, step, TOWER.warmup, TOWER.steps, floor=0.02)
        patch_loss, image_loss, accuracy = heads.losses(tower(pixel_values=pixels), patches, images)
        optimizer.zero_grad()
        (patch_loss + CLS_WEIGHT * image_loss).backward()
        nn.utils.clip_grad_norm_([*tower.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        if step % 50 == 49:
            log.info("tower %d %.0fs patch %.3f cls %.3f %s", step + 1, time.time() - clock,
                     patch_loss.item(), image_loss.item(),
                     " ".join(f"{name} {value:.2f}" for name, value in accuracy.items()))
        if step % 100 == 99 or step + 1 == TOWER.steps:
            save_state(path, tower=tower.state_dict(), heads=heads.state_dict(),
                       optimizer=optimizer.state_dict(), step=step + 1)
    return tower, heads
