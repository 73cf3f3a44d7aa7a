"""An attachment: the hooks of a plug-in on a model, put on, run and taken off again."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.encoder_watch import Watch
from rcp.attaching.forwards.forward import Setup
from rcp.attaching.generate_guard import Guard, NoContinuousBatching
from rcp.attaching.hooks import Hook
from rcp.attaching.lora_hooks import hook_lora
from rcp.attaching.relay import Relay
from rcp.attaching.short_tower import ShortTower
from rcp.attaching.trace import Trace
from rcp.backbones.tower import SURVIVORS
from rcp.errors import UserError


class Handle:
    """An attachment. Holds hooks, and nothing of any generation: what they call is the relay."""

    def __init__(self, setup: Setup, mode: str) -> None:
        self.setup = setup
        self.mode = mode
        self._relay = Relay(setup, mode)
        self._hooks: list[Any] = []
        self._watch: Watch | None = None
        self._tower: ShortTower | None = None
        self._place_plugin()
        self._install()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take every hook off the model again; safe to call twice."""
        while self._hooks:
            self._hooks.pop().remove()
        for part in (self._watch, self._tower):
            if part is not None:
                part.remove()
        if self._relay.guard is not None:
            self._relay.guard.remove()
        _forget_compiled()

    @contextmanager
    def trace(
        self,
        attention: Sequence[int] = (),
        views: Sequence[int] = (),
        answers: Sequence[int] | None = None,
        biases: Sequence[int] = (),
        enters: bool = False,
    ) -> Iterator[Trace]:
        """Observe the forwards inside the ``with`` block; the last one is what the trace holds.

        ``answers``: the layers whose answer rows are kept, by default the repair layers;
        ``views``: the layers whose stages' views are, in record mode what they would see. There
        also the question's attention to the visual tokens at the layers ``attention``, and
        ``biases``: layers whose attention logits get a leaf of zeros for
        :func:`rcp.objectives.relevance.relevance`; ``enters``: the decoder's input becomes a leaf
        for :func:`rcp.objectives.relevance.entry_relevance`. Raises ``UserError`` for answer rows
        that "drop" mode does not have, and for what lies inside a decoder that can be looked at
        from before it alone.
        """
        self._refuse_looking_inside([*attention, *biases, *(layer for layer in views if layer)])
        repair = self.setup.plugin.repair
        repaired = repair.layers if repair is not None else []
        if self.mode == "drop" and not set(answers or ()).issubset(repaired):
            raise UserError(
                f'In "drop" mode only repair layers ({repaired}) keep their answer rows, not all '
                f'of {list(answers or ())}. Ask for these, or attach in "soft" or "record" mode.'
            )
        answers = repaired if answers is None else answers
        trace = Trace(tuple(attention), tuple(views), tuple(answers), tuple(biases), enters)
        self._relay.local.trace = trace
        try:
            yield trace
        finally:
            self._relay.local.trace = None

    @contextmanager
    def prompt(self, length: int | Tensor) -> Iterator[None]:
        """Say where the prompt ends, for forwards without a cache and without labels.

        ``length``: columns of the prompt, an int or (B,) long.
        """
        self._relay.local.prompt = length
        try:
            yield
        finally:
            self._relay.local.prompt = None

    def _refuse_looking_inside(self, layers: Sequence[int]) -> None:
        backbone = self.setup.backbone
        if layers and self.mode == "record" and self.setup.before_decoder:
            raise UserError(
                f"{type(backbone.model).__name__} {backbone.only_before}, so that what its layer "
                f"{layers[0]} attends to is not recorded. Choose a model of another family."
            )

    # -- hooks ---------------------------------------------------------------------------------

    def _place_plugin(self) -> None:
        plugin, backbone = self.setup.plugin, self.setup.backbone
        modules: list[tuple[nn.Module, int]] = []
        modules += [(plugin.pruner(at), at) for at in plugin.schedule.layers]
        if plugin.repair is not None:
            modules.append((plugin.repair, plugin.repair.layers[0]))
        for module, layer in modules:
            module.to(device=backbone.device(layer), dtype=self._dtype(layer))
            if self.mode == "drop":
                module.eval()  # no dropout: it would choose other tokens each time

    def _dtype(self, layer: int) -> torch.dtype | None:
        """What the plug-in's parts at ``layer`` are cast to: for dropping the model's own."""
        return self.setup.backbone.dtype(layer) if self.mode == "drop" else None

    def _install(self) -> None:
        model, backbone, relay = self.setup.backbone.model, self.setup.backbone, self._relay
        try:
            self._before(model, relay.begin)
            inputs, outputs = self._inputs, self._outputs
            for index, layer in enumerate(backbone.layers):
                if index in inputs:
                    self._before(layer, partial(relay.before_layer, index))
                if index in outputs:
                    self._after(layer, partial(relay.after_layer, index))
            for block in self._watched_blocks():
                self._after(block, relay.after_block, with_kwargs=True)
            self._before(backbone.decoder, relay.enter)
            self._after(backbone.decoder, relay.finish)
            self._after(model, relay.end, always_call=True)
            if self.setup.plugin.lora is not None and self.mode != "record":
                self._hooks += hook_lora(self.setup.plugin.lora, model, self._dtype(0))
            shorter = self.setup.plugin.spec.tower if self.mode != "record" else None
            # a plan may be replayed, which asks for no facts
            facts = self.setup.facts if shorter is None else self.setup.facts | {SURVIVORS}
            self._watch = Watch(backbone, facts, relay.encoded)
            if shorter is not None:
                assert backbone.tower is not None, "TowerSpec.check_on comes first"
                self._tower = ShortTower(backbone.tower, shorter, self._watch)
            if hasattr(model, "init_continuous_batching"):
                self._hooks.append(NoContinuousBatching(model))
            if self.mode == "drop" and hasattr(model, "generate"):
                relay.guard = Guard(model, self.setup)
            _forget_compiled()
        except BaseException:
            self.remove()
            raise

    @property
    def _inputs(self) -> Container[int]:
        """The layers whose input is read or changed; a stage may look one layer back."""
        if self.setup.before_decoder:
            return ()
        stages, depth = self.setup.plugin.schedule.layers, len(self.setup.backbone.layers)
        first = 0 if self.mode == "record" else max(0, min(stages, default=0) - 1)
        return range(first, depth)

    @property
    def _outputs(self) -> Container[int]:
        """The layers whose output is; in a decode step each hook takes time for nothing."""
        backbone, repair = self.setup.backbone, self.setup.plugin.repair
        if self.mode != "drop":
            return range(len(backbone.layers))
        return {*range(backbone.added_layers), *(repair.layers if repair is not None else ())}

    def _before(self, module: nn.Module, hook: Any) -> None:
        self._hooks.append(module.register_forward_pre_hook(Hook(hook), with_kwargs=True))

    def _after(self, module: nn.Module, hook: Any, **options: bool) -> None:
        self._hooks.append(module.register_forward_hook(Hook(hook), **options))

    def _watched_blocks(self) -> list[nn.Module]:
        """The blocks whose inputs and outputs a stage behind them asks for."""
        plugin, backbone = self.setup.plugin, self.setup.backbone
        asking = [at for at in plugin.schedule.layers if "transitions" in plugin.pruner(at).needs]
        layers = range(asking[0] - 1, asking[-1]) if asking else ()
        return [block for layer in layers for block in backbone.blocks(layer)]


def _forget_compiled() -> None:
    """Let compiled models be compiled anew: their graphs do not notice that hooks come and go."""
    torch.compiler.reset()
