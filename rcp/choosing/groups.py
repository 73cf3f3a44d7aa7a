"""Tokens by group, such as the image or the frame they are of; pure functions of tensors.

``group`` (B, N) long says whose a token is, ``member`` (B, N) bool which tokens count. No result
depends on the others.
"""

import torch
from torch import Tensor


def consecutive(group: Tensor, member: Tensor) -> Tensor:
    """``group``, which does not fall along members, without gaps: (B, N) long in [0, N)."""
    so_far = torch.where(member, group, -1).cummax(1).values
    before = so_far.roll(1, 1)
    before[:, :1] = -1
    return ((so_far != before).long().cumsum(1) - 1).clamp(min=0)


def sizes(group: Tensor, member: Tensor) -> Tensor:
    """How many members the group of each token has, for groups in [0, N): (B, N) long."""
    return torch.zeros_like(group).scatter_add(1, group, member.long()).gather(1, group)


def place_in_group(group: Tensor, member: Tensor, *worths: Tensor) -> Tensor:
    """How many members of its group come before each member: (B, N) long.

    The first of ``worths`` (B, N) orders them, largest first, the next one those it leaves equal,
    and raster order the rest. N or more at tokens that are no members.
    """
    tokens = group.shape[1]
    order = torch.arange(tokens, device=group.device).expand_as(group)
    apart = torch.where(member, group, torch.iinfo(group.dtype).max)
    for key, falling in (*((worth, True) for worth in reversed(worths)), (apart, False)):
        by_key = key.gather(1, order).argsort(dim=1, descending=falling, stable=True)
        order = order.gather(1, by_key)
    found = apart.gather(1, order)
    place = torch.arange(tokens, device=group.device).expand_as(group)
    starts = torch.ones_like(member)
    starts[:, 1:] = found[:, 1:] != found[:, :-1]
    place = place - torch.where(starts, place, 0).cummax(1).values
    place = torch.zeros_like(group).scatter(1, order, place)
    return torch.where(member, place, tokens)


def quotas(counts: Tensor, group: Tensor, member: Tensor) -> Tensor:
    """How many of ``counts`` (B,) the group of each token gets, in proportion to its size.

    Groups are in [0, N). (B, N) long; over the groups of a sample exactly its count, if it has as
    many members. What rounding down leaves goes to the largest remainders, of equals the first.
    """
    size = torch.zeros_like(group).scatter_add(1, group, member.long())
    total = size.sum(1, keepdim=True).clamp(min=1)
    share = counts[:, None] * size
    quota = torch.div(share, total, rounding_mode="floor")
    order = (share - quota * total).argsort(dim=1, descending=True, stable=True)
    left = counts[:, None] - quota.sum(1, keepdim=True)
    more = torch.arange(size.shape[1], device=size.device) < left
    quota = quota + torch.zeros_like(quota).scatter(1, order, more.long())
    return torch.minimum(quota, size).gather(1, group)


def listed_by_group(
    group: Tensor, member: Tensor, groups: int, width: int
) -> tuple[Tensor, Tensor]:
    """The members of each of ``groups`` groups in raster order: (B, groups, width) long, and which
    of these places are taken, likewise bool. Others hold slot 0."""
    place = group * width + place_in_group(group, member)
    at = torch.where(member, place, groups * width)  # a place more, for all that are no members
    slots = torch.arange(group.shape[1], device=group.device).expand_as(group)
    table = group.new_full((len(group), groups * width + 1), -1).scatter(1, at, slots)
    table = table[:, :-1].unflatten(1, (groups, width))
    return table.clamp(min=0), table >= 0
