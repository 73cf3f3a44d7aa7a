"""Families that are known and cannot be supported, and why."""

_RECURRENT = (
    "has decoder layers that carry a running state (linear attention or convolution), which "
    "dropped tokens have already entered"
)
_SHARED_KEYS = "has layers that reuse the keys of an earlier layer, which may hold other tokens"

REFUSED = {
    "mllama": "looks at images by cross-attention: its prompt holds no visual tokens to drop",
    "qwen3_5": _RECURRENT,
    "qwen3_5_moe": _RECURRENT,
    "lfm2_vl": _RECURRENT,
    "gemma3n": _SHARED_KEYS + ", and hidden states of its own shape",
    "gemma4": _SHARED_KEYS,
    "llama4": "attends within chunks of the prompt, whose borders dropping would move",
}
"""Model type → what stands in the way, to follow the model's name in a sentence."""
