"""The facts a family must supply, with the defaults that hold for nearly all of them."""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rcp.errors import UserError
from rcp.registry import Registry

BACKBONES = Registry("model family", "rcp.backbones")

ATTENTION_TYPES = ("full_attention", "sliding_attention")


class Backbone:
    """Facts about one family, bound to one ``model``. Knows nothing of pruning.

    A subclass names its ``model_types`` (``config.model_type``) and overrides what differs.
    Modules are called, never their weights read: under ZeRO-3 a parameter is empty outside its
    own module's ``forward``.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    first_layer: ClassVar[int] = 0
    limits: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        for model_type in cls.model_types:
            BACKBONES.register(model_type, cls)

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self.config: Any = model.config
        self.text_config: Any = model.config.get_text_config()
        self._refuse_layer_types()

    @property
    def decoder(self) -> nn.Module:
        """The module that owns the decoder layers."""
        return self.model.get_decoder()

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers

    @property
    def hidden_size(self) -> int:
        return self.text_config.hidden_size

    @property
    def attention(self) -> str:
        """The attention backend of the decoder: "sdpa", "eager", "flash_attention_2", ..."""
        return self.text_config._attn_implementation

    @property
    def visual_tokens(self) -> int | None:
        """Visual tokens of one image where that number is fixed, else None."""
        return None

    def window(self, layer: int) -> int | None:
        """Sliding window of ``layer`` in tokens, None for full attention."""
        types = getattr(self.text_config, "layer_types", None)
        if types is not None and types[layer] == "full_attention":
            return None
        return getattr(self.text_config, "sliding_window", None)

    def image_rows(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """(B, T) bool: which columns hold image features, found as the host finds them."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id
        token = torch.tensor(self.config.image_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.model.get_input_embeddings()(token)).all(-1)

    def input_norm(self, layer: int, hidden: Tensor) -> Tensor:
        """Layer ``layer``'s input norm of ``hidden`` (B, T, D)."""
        return self.layers[layer].input_layernorm(hidden)

    def qk(
        self,
        layer: int,
        question: Tensor,
        rows: Tensor,
        question_rope: tuple[Tensor, Tensor],
        rows_rope: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Rotated queries of ``question`` (B, Q, D) and keys of ``rows`` (B, R, D).

        Both are normed inputs of ``layer``; each rope is the (cos, sin) of those rows, (B, ., d).
        Returns (B, H, Q, d) and (B, H_kv, R, d), equal to what the layer's attention computes.
        """
        attention = self.layers[layer].self_attn
        query = self._heads(attention, "q", question)
        key = self._heads(attention, "k", rows)
        # the family's own rotary function, which lives beside its attention class
        rotate = inspect.getmodule(type(attention)).apply_rotary_pos_emb  # type: ignore[union-attr]
        query, _ = rotate(query, query, *question_rope)
        key, _ = rotate(key, key, *rows_rope)
        return query, key

    def attention_logits(self, layer: int, query: Tensor, key: Tensor) -> Tensor:
        """Scaled (and soft-capped) products of :meth:`qk`: (B, H, Q, R), before the mask."""
        attention = self.layers[layer].self_attn
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits = (query @ key.transpose(-1, -2)).float() * attention.scaling
        cap = getattr(self.text_config, "attn_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _heads(self, attention: nn.Module, which: str, rows: Tensor) -> Tensor:
        projected = getattr(attention, f"{which}_proj")(rows)
        projected = projected.unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{which}_norm", None)
        if norm is not None:
            projected = norm(projected)
        return projected.transpose(1, 2)

    def _refuse_layer_types(self) -> None:
        unknown = set(getattr(self.text_config, "layer_types", None) or ()) - set(ATTENTION_TYPES)
        if unknown:
            raise UserError(
                f"{type(self.model).__name__} has decoder layers of type "
                f"{', '.join(sorted(unknown))}, which keep a state that dropped tokens have "
                f"already entered. Only {' and '.join(ATTENTION_TYPES)} can lose tokens: choose a "
                f"model whose layers are all of these."
            )


def backbone_for(model: nn.Module) -> Backbone:
    """The facts of ``model``'s family; raises ``UserError`` for a family we do not know."""
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type not in BACKBONES.names():
        raise UserError(
            f"{type(model).__name__} (model type '{model_type}') is not a family this version "
            f"supports. Supported: {', '.join(BACKBONES.names())}. Load one of these, or add a "
            f"file to rcp/backbones/ as the README shows."
        )
    return BACKBONES.get(model_type)(model)
