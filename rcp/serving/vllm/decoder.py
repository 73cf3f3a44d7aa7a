"""An engine's modules as a family: what a stage before the decoder asks of its first layer.

Modules of vLLM compute queries, keys and values in one, and take positions where those of
transformers take (cos, sin). A rope is therefore (ones, positions), each (B, R, axes): turned by an
angle of zero, which is how a method leaves positions out, the second becomes zero.
"""

from typing import Any

import torch
from torch import Tensor

from rcp.backbones.base import Backbone, Rope
from rcp.backbones.places import Places, any_resolution, from_positions, raster_numbers
from rcp.backbones.tower import Tower
from rcp.base_model.samples import Values, Weight
from rcp.plugin.lora import Lora

RENAMED = {
    "language_model.model.": "model.language_model.",
    "vision_tower.vision_model.": "model.vision_tower.",
    "multi_modal_projector.": "model.multi_modal_projector.",
    "visual.": "model.visual.",
    "image_newline": "model.image_newline",
}
"""How names of weights begin in vLLM, and in what is known of a base."""


def image_tokens(config: Any) -> int:
    """Visual tokens of an image in a LLaVA-1.5 of this ``config``."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side * side + (config.vision_feature_select_strategy == "full")


def sampled(model: Any) -> Values:
    """A few values of every weight of a ``model`` of vLLM, under the names of a base's own.

    Some go by names that no base has: matrices that vLLM has joined.
    """
    found: Values = {}
    for name, weight in model.named_parameters():
        for beginning, other in RENAMED.items():
            if name.startswith(beginning):
                known = other + name.removeprefix(beginning)
                found[known] = Weight(known, "", weight).sampled().tolist()
    return found


class FusedTower(Tower):
    """The vision side of a model of vLLM, which is built up to the layer that is projected."""

    @property
    def projector(self) -> Any:
        return self.model.multi_modal_projector

    @property
    def encoder(self) -> Any:
        return self.model.vision_tower.vision_model

    @property
    def attention(self) -> Any:
        return self.encoder.encoder.layers[-1].self_attn

    def _heads(self, which: str, hidden: Tensor) -> Tensor:
        attention = self.attention
        part = attention.qkv_proj(hidden)[0].chunk(3, dim=-1)["qkv".index(which)]
        return part.unflatten(-1, (attention.num_heads_per_partition, -1)).transpose(1, 2)


class FusedLayer(Backbone):
    """The first layer of a model of vLLM; ``lora``: adapters that the engine adds to its products.

    It adds them for the tokens of a batch that it knows. A choice is made of others: what the
    adapters give is added here.
    """

    lora: Lora | None = None

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings (n, D) of the token ``ids`` (n,) long, as the base has them."""
        table = self.decoder.embed_tokens
        return getattr(table, "base_layer", table)(ids)

    @property
    def decoder(self) -> Any:
        return self.model.language_model.model

    @property
    def attention(self) -> str:
        return "sdpa"  # the plain causal attention over a prompt

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        axes = positions if positions.dim() == 3 else positions[None]
        axes = axes.expand(-1, *hidden.shape[:2]).permute(1, 2, 0)
        return torch.ones_like(axes), axes

    def qk(
        self, layer: int, question: Tensor, rows: Tensor, question_rope: Rope, rows_rope: Rope
    ) -> tuple[Tensor, Tensor]:
        query, _ = self._both(layer, question, question_rope[1])
        return query, self._both(layer, rows, rows_rope[1])[1]

    def qk_of_run(
        self, layer: int, run: range, rows: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        query, key = self._both(layer, rows, rope[1])
        return query[:, :, run.start : run.stop], key

    def _both(self, layer: int, rows: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys of the normed ``rows`` (B, R, D) at ``positions`` (B, R, axes).
        """
        attention = self._attention(layer)
        product = getattr(attention.qkv_proj, "base_layer", attention.qkv_proj)
        flat = rows.flatten(0, 1)
        mixed, _ = product(flat)
        sizes = [attention.q_size, attention.kv_size, attention.kv_size]
        query, key, _ = mixed.split(sizes, dim=-1)
        query, key = self._adapted(layer, "q", flat, query), self._adapted(layer, "k", flat, key)
        query, key = self._normed(attention, "q", query), self._normed(attention, "k", key)
        axes = positions.flatten(0, 1).long().T
        query, key = attention.rotary_emb(
            axes if len(axes) > 1 else axes[0], query.contiguous(), key.contiguous()
        )
        heads = (*rows.shape[:2], -1, attention.head_dim)
        return query.reshape(heads).transpose(1, 2), key.reshape(heads).transpose(1, 2)

    def _adapted(self, layer: int, which: str, rows: Tensor, product: Tensor) -> Tensor:
        if self.lora is None:
            return product
        ending = f"layers.{layer}.self_attn.{which}_proj"
        names = [name for name in self.lora.spec.modules if name.endswith(ending)]
        pairs = [self.lora.pairs[name.replace(".", "/")] for name in names]
        return product + sum(pair(rows).to(product) for pair in pairs) if pairs else product

    def _normed(self, attention: Any, which: str, flat: Tensor) -> Tensor:
        norm = getattr(attention, f"{which}_norm", None)
        if norm is None:
            return flat
        return norm(flat.unflatten(-1, (-1, attention.head_dim))).flatten(-2)


class FusedDecoder(FusedLayer):
    """Likewise, of a LLaVA-1.5, whose vision side is at hand."""

    @property
    def tower(self) -> Tower:
        return FusedTower(
            self.model, crops=self.config.vision_feature_select_strategy == "default"
        )

    @property
    def visual_tokens(self) -> int:
        return image_tokens(self.config)


class PlacedDecoder(FusedLayer):
    """Likewise, of a family whose positions are places (M-RoPE) and whose tower is not shown."""

    @property
    def tower(self) -> None:
        return None

    @property
    def visual_tokens(self) -> None:
        return None

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places | None:
        return None if positions is None else from_positions(image, positions)

    def frames(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor | None:
        return None if positions is None else raster_numbers(positions)


class TiledDecoder(FusedLayer):
    """Likewise, of a LLaVA whose images are tiles at any resolution, whose tower is not shown."""

    @property
    def tower(self) -> None:
        return None

    @property
    def visual_tokens(self) -> None:
        return None

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        newline = image & (embeds == self.model.image_newline.to(embeds)).all(-1)
        return any_resolution(image, newline, side, -(-side // 2))
