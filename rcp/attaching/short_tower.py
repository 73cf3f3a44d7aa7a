"""Patches that go inside the vision tower, whose later blocks are then given fewer rows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.encoder_watch import Watch
from rcp.attaching.hooks import Hook, OfThread
from rcp.backbones.tower import SURVIVORS, Tower
from rcp.choosing.fusing import fused, kept_patches
from rcp.errors import UserError
from rcp.plugin.tower import TowerSpec


@dataclass
class _Encoding:
    """One pass through the tower: of ``patches`` of each image, which are ``left`` (I, K) long.

    ``query`` and ``key`` (I, R, C) are what the attention of a block has just projected; ``short``
    (I, R', C) is what its feed-forward part is given, and ``fed`` what that has made of it.
    """

    patches: int
    left: Tensor | None = None
    query: Tensor | None = None
    key: Tensor | None = None
    short: Tensor | None = None
    fed: Tensor | None = None


class ShortTower:
    """Drops patches in the blocks of ``spec``, between attention and feed-forward part, wherever
    ``watch`` sees images encoded.

    Nothing of a block is computed anew but the attention of [CLS]. Visual tokens that the tower
    has dropped are zeros among those projected, and ``watch`` notes which are left. The fused row
    is not projected. Hooks stand until :meth:`remove`.
    """

    def __init__(self, tower: Tower, spec: TowerSpec, watch: Watch) -> None:
        self.tower = tower
        self.keep = spec.keep
        self.watch = watch
        self._local = OfThread()  # the encoding now running in this thread
        self._hooks: list[Any] = []
        first, *_ = blocks = [tower.blocks[at] for at in spec.blocks]
        self._before(first, self._begin)
        for block in blocks:
            self._after(block.self_attn.q_proj, partial(self._projected, "query"))
            self._after(block.self_attn.k_proj, partial(self._projected, "key"))
            self._before(block.layer_norm2, partial(self._shorten, block.self_attn))
            self._after(block.mlp, self._feed)
            # before those that record what a block gives
            self._after(block, self._leave, prepend=True)
        self._before(tower.projector, self._without_fused)
        self._after(tower.projector, self._at_their_places)

    def remove(self) -> None:
        """Take every hook off the tower again; safe to call twice."""
        while self._hooks:
            self._hooks.pop().remove()

    def _before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._hooks.append(module.register_forward_pre_hook(Hook(hook), with_kwargs=True))

    def _after(self, module: nn.Module, hook: Callable[..., Any], **options: bool) -> None:
        self._hooks.append(module.register_forward_hook(Hook(hook), **options))

    @property
    def _running(self) -> _Encoding | None:
        """The pass of this thread; None where the tower is called by itself."""
        return getattr(self._local, "running", None) if self.watch.encoding else None

    def _begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first block that drops: until here all rows are there."""
        if self.watch.encoding:
            rows = args[0] if args else kwargs["hidden_states"]
            self._local.running = _Encoding(rows.shape[1] - 1)

    def _projected(self, which: str, _: nn.Module, __: Any, output: Tensor) -> None:
        if self._running is not None:
            setattr(self._running, which, output)

    def _shorten(
        self, attention: nn.Module, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Before the norm of the feed-forward part: it goes on with the rows left."""
        running = self._running
        if running is None:
            return None
        before = running.patches if running.left is None else running.left.shape[1]
        left = kept_patches(before, self.keep)
        if left == before:
            return None  # of so few, each stays
        assert running.query is not None and running.key is not None
        weights = self.tower.from_cls(attention, running.query, running.key)
        running.short, index = fused(args[0], weights[:, 1:], before, left)
        if running.left is not None:
            index = running.left.to(index.device).gather(1, index)  # blocks may be spread
        running.left = index
        return (running.short,), kwargs

    def _feed(self, _: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        """After the feed-forward part, whose block adds what it gives to all rows there were."""
        running = self._running
        if running is None or running.short is None:
            return None
        running.fed = output
        return output[:, :1]  # fits any number of rows

    def _leave(self, _: nn.Module, __: Any, ___: Any) -> Tensor | None:
        """After the block: what it would have given of the rows left."""
        running = self._running
        if running is None or running.short is None or running.fed is None:
            return None
        output = running.short + running.fed
        running.short = running.fed = running.query = running.key = None
        return output

    def _without_fused(
        self, _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
    ) -> Any:
        running = self._running
        if running is None or running.left is None:
            return None
        left = running.left.shape[1]
        if args[0].shape[1] != left + 1:
            raise UserError(
                f"The projector is given {args[0].shape[1]} rows, but the vision tower has kept "
                f"{left} patches: those of another layer are asked for than vision_feature_layer "
                f"of the model's configuration says. Leave that to it, or detach the plug-in."
            )
        return (args[0][:, :left], *args[1:]), kwargs

    def _at_their_places(self, _: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        """After the projector: each visual token where all would be, zeros for those gone."""
        running = self._running
        if running is None:
            return None
        self._local.running = None
        shape = len(output), running.patches, 1
        if running.left is None:
            self.watch.note(SURVIVORS, torch.ones(shape, dtype=torch.bool, device=output.device))
            return None
        there = torch.zeros(shape, dtype=torch.bool, device=output.device)
        index = running.left.to(output.device)[..., None]
        self.watch.note(SURVIVORS, there.scatter(1, index, True))
        everywhere = output.new_zeros(*shape[:2], output.shape[2])
        return everywhere.scatter(1, index.expand_as(output), output)
