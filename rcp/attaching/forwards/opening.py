"""From one call of the model to the object that accompanies it."""

import torch
from torch import Tensor

from rcp.attaching.forwards.call import Call
from rcp.attaching.forwards.drop import DropForward
from rcp.attaching.forwards.forward import Forward, Setup
from rcp.attaching.forwards.record import EntryRecord, RecordForward
from rcp.attaching.forwards.short_prompt import ShortPrompt
from rcp.attaching.forwards.soft import SoftForward
from rcp.attaching.generate_guard import static_cache
from rcp.attaching.generation_state import has_fixed_length, state_of
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import TokenMap, build_token_map, continuation_map, one_more_token
from rcp.errors import UserError


def open_forward(setup: Setup, mode: str, call: Call, trace: Trace | None) -> Forward:
    """The forward of ``mode`` for ``call``; raises ``UserError`` for what cannot be served."""
    return _dropping(setup, call, trace) if mode == "drop" else _whole(setup, mode, call, trace)


def _dropping(setup: Setup, call: Call, trace: Trace | None) -> DropForward:
    if has_fixed_length(call.cache) and not setup.before_decoder:
        raise static_cache(type(call.cache).__name__)
    kind = ShortPrompt if setup.before_decoder else DropForward
    past = state_of(call.cache, id(setup.plugin), *call.rows.shape[:2])
    padding = call.padding(0 if past is None else past.length)
    if past is not None and not call.has_images:
        return kind(setup, _continuation(call, padding), trace, past, padding)
    valid = _valid(call, padding)
    if call.ids is None and not call.has_images:
        raise UserError(
            "inputs_embeds alone do not show which rows are images, so nothing could be "
            "dropped. Pass input_ids, or pixel_values beside embedded image placeholders."
        )
    _refuse_unknown_end(setup, call)
    return kind(setup, _tokens(setup, call, valid), trace, past, padding, call.budgets)


def _whole(setup: Setup, mode: str, call: Call, trace: Trace | None) -> Forward:
    """A forward over a whole sequence, in "soft" or "record" mode."""
    padding = call.padding(0)
    valid = _valid(call, padding)
    if mode == "soft":
        _refuse_unknown_end(setup, call)
    tokens = _tokens(setup, call, valid)
    if call.cache is not None and call.cache.get_seq_length() > 0:
        raise UserError(
            f'"{mode}" mode sees whole sequences, but this forward continues a cache of '
            f'{call.cache.get_seq_length()} tokens. Pass use_cache=False, or attach in "drop" mode.'
        )
    if mode == "record":
        return (EntryRecord if setup.before_decoder else RecordForward)(setup, tokens, trace)
    if setup.before_decoder:
        return ShortPrompt(setup, tokens, trace, None, padding)
    return SoftForward(setup, tokens, trace)


def _continuation(call: Call, padding: Tensor | None) -> TokenMap:
    if call.rows.shape[1] == 1:
        return one_more_token(len(call.rows), call.rows.device)
    return continuation_map(_valid(call, padding), max(call.predicting, 1))


def _valid(call: Call, padding: Tensor | None) -> Tensor:
    """(B, T) bool: the columns of this forward that are no padding."""
    length = call.rows.shape[1]
    if padding is not None:
        return padding[:, -length:].bool()
    return torch.ones(call.rows.shape[:2], dtype=torch.bool, device=call.rows.device)


def _tokens(setup: Setup, call: Call, valid: Tensor) -> TokenMap:
    """Roles of the columns of a ``call`` whose ``valid`` (B, T) ones are known."""
    image = setup.backbone.image_rows(call.ids, call.embeds)
    prompt, length = call.prompt, valid.shape[1]
    if isinstance(prompt, int) and not 1 <= prompt <= length:
        raise UserError(
            f"The prompt cannot end at column {prompt}: this forward has {length} columns. "
            f"Give how many of them the prompt takes, at least 1."
        )
    if prompt is None and call.labels is None and call.predicting > 1:
        prompt = length + 1 - call.predicting  # assisted: candidates and one before
    end = None
    if prompt is not None:
        end = torch.as_tensor(prompt, device=valid.device).expand(len(valid))
    return build_token_map(image, valid, labels=call.labels, prompt_end=end)


def _refuse_unknown_end(setup: Setup, call: Call) -> None:
    """Where nothing tells the prompt's end, a prefill with a cache is all prompt."""
    caches = call.use_cache
    if caches is None:
        caches = getattr(setup.backbone.text_config, "use_cache", True)
    if call.labels is None and call.prompt is None and not caches:
        raise UserError(
            "Without a cache it is unknown where the prompt ends, so the question cannot be "
            "told from what was generated. Pass labels, keep use_cache=True, or run the "
            "forward inside `with handle.prompt(length):`."
        )
