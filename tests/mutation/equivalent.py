"""Mutants that no test can catch, and why: by the name that a run prints for them."""

EQUIVALENT: dict[str, str] = {
    "rcp/objectives/labels.py: order = share.masked_fill(~alive, -1).argsort(dim=1, stable=True)"
    "  [False]": "on a CPU every sort is stable; other devices are told to",
    "rcp/repair/film.py: weights = logits.softmax(-1).to(kept.dtype)  [without USub]":
        "of two dimensions the last is number one",
    "rcp/choosing/greedy.py: if start + BLOCK < tokens:  [Sub]":
        "what is left after the last block is an empty slice, into which nothing is copied",
    "rcp/objectives/losses.py: rows = sums[-1].detach().clamp(min=1)  [1 + 1] #2":
        "the result of fewer than two rows is multiplied by zero",
    "rcp/choosing/merging.py: members = members + torch.eye(members.shape[2], "
    "device=members.device)  [2 - 1]": "members are as many targets as guests: all tokens",
    "rcp/choosing/merging.py: targets = (counts * share).floor().long()  [without floor]":
        "a whole number is what is left of a positive one without its fraction",
    "rcp/choosing/schedule.py: spans = Schedule(stages, (0.0,) * len(stages), num_layers)"
    ".spans[: len(layers) + 1]  [0.0 + 1]": "spans are of layers alone",
    "rcp/choosing/tokens.py: grid=none[..., None].expand(-1, -1, 2).float(),  [1 - 1] #2":
        "a continuation has no slot, so that none of none is none",
    "rcp/attaching/forwards/columns.py: order = torch.where(real, index, -1).argsort(dim=1, "
    "stable=True)  [False]": "on a CPU every sort is stable; other devices are told to",
    "rcp/attaching/forwards/columns.py: real_or_none = real.gather(1, order) if min(counts) < "
    "max(counts) else None  [LtE]": "where all slots are real, a mask of them says nothing more",
    "rcp/attaching/forwards/drop.py: if new == 1 and own is None and keys.valid is None and not "
    "binds:  [1 + 1]":
        "over a past the model itself masks several new rows; one comes out below",
    "rcp/attaching/forwards/drop.py: self.masks.clear()  [left out]":
        "masks are kept by stage: those of an earlier one are not asked for again",
    "rcp/attaching/forwards/drop.py: binds = window is not None and "
    "self.past_length + rows.length > window  [GtE]":
        "a window as long as all there is forbids nothing",
    "rcp/attaching/forwards/drop.py: bidirectional = self.backbone.bidirectional and "
    "self.tokens.has_images  [Or]":
        "the model's own rule among new rows without images, or of a causal model, is causal",
    "rcp/attaching/forwards/drop.py: block = block > torch.finfo(block.dtype).min / 2  [2 - 1]":
        "a mask to add holds zeros and its type's floor",
    "rcp/attaching/forwards/drop.py: block = block > torch.finfo(block.dtype).min / 2  [GtE]":
        "a mask to add holds zeros and its type's floor",
    "rcp/attaching/forwards/drop.py: return layer < len(layers) and "
    "getattr(layers[layer], \"is_sliding\", False)  [LtE]":
        "a cache with a past has all its layers",
    "rcp/attaching/forwards/forward.py: wanted = torch.tensor(counts, dtype=torch.long, "
    "device=device)  [without dtype=]": "integers become long by themselves",
    "rcp/attaching/relay.py: return output  [returns None]":
        "a hook that returns nothing leaves the output, whose field was set",
    "rcp/choosing/view.py: rotary: bool = True,  [False]":
        "a protocol's default is for readers; that of LayerAttention counts",
    "rcp/folder/measured.py: values = json.loads(file.read_text(encoding=\"utf-8\"))  "
    "[without encoding=]": "where tests run, that is the locale's encoding",
    "rcp/attaching/forwards/short_prompt.py: return False  [returns None]":
        "whoever asks wants to know whether it is true",
}
