"""What stands in a decoder layer for an attention, or beside it, in sizes."""

from typing import Any

from torch import nn

from rcp.base_model.cost import AttentionSizes


def mixer_sizes(mixer: Any, hidden: int) -> AttentionSizes:
    """The sizes of a layer's ``mixer``: an attention, a gated delta rule or a short convolution.

    ``hidden`` is the width of the decoder.
    """
    if hasattr(mixer, "in_proj_qkv"):
        return _delta_rule(mixer)
    if hasattr(mixer, "conv"):
        return _convolution(mixer, hidden)
    return _attention(mixer)


def _attention(attention: Any) -> AttentionSizes:
    """Linear layers tell their sizes even where their weights are elsewhere, or packed."""
    dim = attention.head_dim
    names = ("q_proj", "k_proj", "v_proj", "g_proj")
    found = {name: getattr(attention, name, None) for name in names}
    columns = {n: 0 if linear is None else linear.out_features for n, linear in found.items()}
    back = getattr(attention, "o_proj", None) or attention.out_proj  # of queries a gate may be one
    held = 0 if getattr(attention, "is_kv_shared_layer", False) else columns["k_proj"]
    if not held:  # the keys are those of an earlier layer
        columns |= {"k_proj": 0, "v_proj": 0}
    return AttentionSizes(
        back.in_features // dim, held // dim, dim, sum(columns.values()) + back.in_features
    )


def _delta_rule(mixer: Any) -> AttentionSizes:
    """A state of (d_k, d_v) for each value head: every row reads what its key finds there, writes
    the difference to its value, and reads by its query, 2 d_k d_v operations each."""
    linears = (mixer.in_proj_qkv, mixer.in_proj_z, mixer.in_proj_b, mixer.in_proj_a)
    state = mixer.num_v_heads * mixer.head_k_dim * mixer.head_v_dim
    return AttentionSizes(
        heads=0,
        kv_heads=0,
        head_dim=0,
        projections=sum(one.out_features for one in linears) + mixer.out_proj.in_features,
        beside=3 * 2 * state + _flops_of(mixer.conv1d),
        state=state + _held_by(mixer.conv1d),
    )


def _convolution(mixer: Any, hidden: int) -> AttentionSizes:
    return AttentionSizes(
        heads=0,
        kv_heads=0,
        head_dim=0,
        projections=mixer.in_proj.out_features + hidden,
        beside=_flops_of(mixer.conv),
        state=_held_by(mixer.conv),
    )


def _flops_of(convolution: nn.Conv1d) -> int:
    """A row's share: each channel sees itself alone."""
    return 2 * convolution.out_channels * convolution.kernel_size[0]


def _held_by(convolution: nn.Conv1d) -> int:
    """Values that the cache holds: the last rows, as many as the kernel is long."""
    return convolution.out_channels * convolution.kernel_size[0]
