"""From the arguments of a model's forward to the object that accompanies it."""

from typing import Any

import torch
from torch import Tensor

from rcp.attaching.cache_names import cache_in
from rcp.attaching.forwards.drop import DropForward
from rcp.attaching.forwards.forward import Forward, Setup
from rcp.attaching.forwards.record import RecordForward
from rcp.attaching.forwards.soft import SoftForward
from rcp.attaching.generate_guard import static_cache
from rcp.attaching.generation_state import GenerationState, state_of
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import TokenMap, build_token_map, continuation_map
from rcp.errors import UserError


def open_forward(
    setup: Setup,
    mode: str,
    call: dict[str, Any],
    trace: Trace | None,
    prompt: int | Tensor | None,
    *,
    generating: bool,
) -> Forward:
    """The forward of ``mode`` for one ``call`` of the model, by argument name.

    ``prompt`` is where the prompt ends, if the caller has said so: an int or (B,) long.
    ``generating`` says that ``generate`` calls. Raises ``UserError`` for calls that cannot be
    served.
    """
    cache = cache_in(call)
    if mode == "drop" and getattr(cache, "is_compileable", False):
        raise static_cache(type(cache).__name__)
    ids, embeds = call.get("input_ids"), call.get("inputs_embeds")
    rows = ids if ids is not None else embeds
    if rows is None:
        raise UserError("A forward needs input_ids or inputs_embeds. Pass one of them.")
    past = state_of(cache, id(setup.plugin), len(rows)) if mode == "drop" else None
    padding = _padding(call.get("attention_mask"), rows, past)
    valid = torch.ones(rows.shape[:2], dtype=torch.bool, device=rows.device)
    if padding is not None:
        valid = padding[:, -rows.shape[1] :].bool()
    asked = call.get("logits_to_keep") if generating else None
    predicting = asked if isinstance(asked, int) else 0  # assisted: candidates and one before
    tokens = _tokens(setup, mode, call, past, valid, prompt, predicting)
    if mode == "drop":
        return DropForward(setup, tokens, trace, past, padding)
    if cache is not None and cache.get_seq_length() > 0:
        raise UserError(
            f'"{mode}" mode sees whole sequences, but this forward continues a cache of '
            f'{cache.get_seq_length()} tokens. Pass use_cache=False, or attach in "drop" mode.'
        )
    kind = SoftForward if mode == "soft" else RecordForward
    return kind(setup, tokens, trace)


def _tokens(
    setup: Setup,
    mode: str,
    call: dict[str, Any],
    past: GenerationState | None,
    valid: Tensor,
    prompt: int | Tensor | None,
    predicting: int,
) -> TokenMap:
    ids, embeds = call.get("input_ids"), call.get("inputs_embeds")
    carries_images = any(
        call.get(name) is not None and len(call[name]) > 0
        for name in ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
    )
    if past is not None and not carries_images:
        return continuation_map(valid, max(predicting, 1))
    if ids is None and mode == "drop" and not carries_images:
        raise UserError(
            "inputs_embeds alone do not show which rows are images, so nothing could be "
            "dropped. Pass input_ids, or pixel_values beside embedded image placeholders."
        )
    image = setup.backbone.image_rows(ids, embeds)
    labels = call.get("labels")
    if labels is None and prompt is None and mode != "record" and not _caches(setup, call):
        raise UserError(
            "Without a cache it is unknown where the prompt ends, so the question cannot be "
            "told from what was generated. Pass labels, keep use_cache=True, or run the "
            "forward inside `with handle.prompt(length):`."
        )
    if isinstance(prompt, int) and not 1 <= prompt <= valid.shape[1]:
        raise UserError(
            f"The prompt cannot end at column {prompt}: this forward has {valid.shape[1]} columns. "
            f"Give how many of them the prompt takes, at least 1."
        )
    if prompt is None and labels is None and predicting > 1:
        prompt = valid.shape[1] + 1 - predicting
    end = None
    if prompt is not None:
        end = torch.as_tensor(prompt, device=valid.device).expand(len(valid))
    return build_token_map(image, valid, labels=labels, prompt_end=end)


def _caches(setup: Setup, call: dict[str, Any]) -> bool:
    use_cache = call.get("use_cache")
    if use_cache is None:
        use_cache = getattr(setup.backbone.text_config, "use_cache", True)
    return bool(use_cache)


def _padding(mask: Any, rows: Tensor, past: GenerationState | None) -> Tensor | None:
    """The 2-D padding mask (B, past + T) of the call, checked, or None."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        raise UserError(
            "A plug-in needs the 2-D attention mask (batch, tokens) to tell padding from text, "
            "not a ready-made 4-D or per-layer one. Pass the mask the processor returns."
        )
    expected = rows.shape[1] + (past.length if past is not None else 0)
    if mask.shape[1] != expected:
        raise UserError(
            f"The attention mask has {mask.shape[1]} columns, but this forward ends at column "
            f"{expected}: prefill in chunks is not supported under a plug-in. Pass the whole "
            f"prompt at once (prefill_chunk_size=None)."
        )
    return mask
