"""The embedded model itself: how it is initialised, and how it grows deeper."""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from data.scenes import PATCHES
from data.tiny_vlm_training.processor import IMAGE
from data.tiny_vlm_training.settings import DECODER_MLP, HEADS, ROPE_THETA, WIDTH
from data.tiny_vlm_training.tower import tower_config

VALUE_GAIN = 0.15


def model_config(tokenizer: PreTrainedTokenizerFast, layers: int) -> LlavaConfig:
    """A LLaVA of the given decoder depth."""
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=DECODER_MLP,
        num_hidden_layers=layers, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id)
    return LlavaConfig(
        vision_config=tower_config(), text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE), projector_hidden_act="gelu",
        vision_feature_select_strategy="default", vision_feature_layer=-1,
        image_seq_length=PATCHES * PATCHES, tie_word_embeddings=False)


@torch.no_grad()
def _initialise_layer(layer: LlamaDecoderLayer) -> None:
    """Attention that starts as content matching, and copies what it matched.

    With queries equal to keys a word attends to what resembles it, and with the output projection
    the transpose of the values it passes that on: this skips the long plateau before attention
    finds out that image and words share one space.
    """
    attention, mlp = layer.self_attn, layer.mlp
    nn.init.orthogonal_(attention.q_proj.weight)
    attention.k_proj.weight.copy_(attention.q_proj.weight)
    nn.init.orthogonal_(attention.v_proj.weight)
    attention.o_proj.weight.copy_(VALUE_GAIN * attention.v_proj.weight.T)
    for projection in (mlp.gate_proj, mlp.up_proj):
        nn.init.normal_(projection.weight, std=WIDTH ** -0.5)
    nn.init.normal_(mlp.down_proj.weight, std=0.005)


def build_model(tokenizer: PreTrainedTokenizerFast, layers: int, tower: CLIPVisionModel | None,
                ) -> LlavaForConditionalGeneration:
    """A fresh decoder and projector around a trained tower."""
    model = LlavaForConditionalGeneration(model_config(tokenizer, layers))
    if tower is not None:
        model.model.vision_tower.load_state_dict(tower.state_dict())
    # Orthonormal word vectors: a sum of a few of them can be read off word by word.
    words = nn.init.orthogonal_(torch.empty(WIDTH, WIDTH))[:len(tokenizer)]
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(words)
        model.lm_head.weight.copy_(words)
    for layer in model.model.language_model.layers:
        _initialise_layer(layer)
    return model


def grow(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, layers: int,
         ) -> LlavaForConditionalGeneration:
    """The same function with `layers` decoder layers.

    Every old layer is followed by new ones whose output projections are zero, so that the grown
    model's logits equal the old one's and the new layers learn from there.
    """
    old = model.model.language_model.layers
    every, rest = divmod(layers, len(old))
    if rest:
        raise ValueError(f"Cannot spread {len(old)} layers evenly over {layers}.")
    deeper = LlavaForConditionalGeneration(model_config(tokenizer, layers))
    new = deeper.model.language_model.layers
    for index, layer in enumerate(new):
        if index % every == 0:
            layer.load_state_dict(old[index // every].state_dict())
        else:
            _initialise_layer(layer)
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    rest_of_it = {name: tensor for name, tensor in model.state_dict().items()
                  if "language_model.layers." not in name}
    deeper.load_state_dict(rest_of_it, strict=False)
    return deeper.to(next(model.parameters()).device)
