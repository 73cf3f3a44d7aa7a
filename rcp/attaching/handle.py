"""An attachment: the hooks of a plug-in on a model, put on, run and taken off again."""

import inspect
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.encoder_watch import Facts, Watch, carried
from rcp.attaching.forwards.ahead import AheadForward
from rcp.attaching.forwards.call import Call
from rcp.attaching.forwards.forward import Forward, Setup
from rcp.attaching.forwards.opening import open_forward
from rcp.attaching.generate_guard import Guard
from rcp.attaching.hooks import Hook, OfThread
from rcp.attaching.lora_hooks import hook_lora
from rcp.attaching.trace import Trace
from rcp.errors import UserError


class Handle:
    """An attachment. Holds hooks, and nothing of any generation."""

    def __init__(self, setup: Setup, mode: str) -> None:
        self.setup = setup
        self.mode = mode
        self._local = OfThread()  # the forward now running in this thread
        self._hooks: list[Any] = []
        self._guard: Guard | None = None
        self._watch: Watch | None = None
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
        if self._watch is not None:
            self._watch.remove()
        if self._guard is not None:
            self._guard.remove()
            self._guard = None
        _forget_compiled()

    @contextmanager
    def trace(
        self,
        attention: Sequence[int] = (),
        views: Sequence[int] = (),
        answers: Sequence[int] | None = None,
        biases: Sequence[int] = (),
    ) -> Iterator[Trace]:
        """Observe the forwards inside the ``with`` block; the last one is what the trace holds.

        ``answers``: the layers whose answer rows are kept, by default the repair layers. In record
        mode also the question's attention to the visual tokens at the layers ``attention``, and
        what the stages at the layers ``views`` would see; ``biases``: layers whose attention
        logits get a leaf of zeros for :func:`rcp.objectives.relevance.relevance`. Raises
        ``UserError`` for answer rows that "drop" mode does not have.
        """
        repair = self.setup.plugin.repair
        repaired = repair.layers if repair is not None else []
        if self.mode == "drop" and not set(answers or ()).issubset(repaired):
            raise UserError(
                f'In "drop" mode only repair layers ({repaired}) keep their answer rows, not all '
                f'of {list(answers or ())}. Ask for these, or attach in "soft" or "record" mode.'
            )
        answers = repaired if answers is None else answers
        self._local.trace = Trace(tuple(attention), tuple(views), tuple(answers), tuple(biases))
        try:
            yield self._local.trace
        finally:
            self._local.trace = None

    @contextmanager
    def prompt(self, length: int | Tensor) -> Iterator[None]:
        """Say where the prompt ends, for forwards without a cache and without labels.

        ``length``: columns of the prompt, an int or (B,) long.
        """
        self._local.prompt = length
        try:
            yield
        finally:
            self._local.prompt = None

    # -- hooks ---------------------------------------------------------------------------------

    def _place_plugin(self) -> None:
        plugin, layers = self.setup.plugin, self.setup.backbone.layers
        modules: list[tuple[nn.Module, int]] = []
        modules += [(plugin.pruner(at), at) for at in plugin.schedule.layers]
        if plugin.repair is not None:
            modules.append((plugin.repair, plugin.repair.layers[0]))
        for module, layer in modules:
            like = next(layers[layer].parameters())
            dtype = like.dtype if self.mode == "drop" and like.is_floating_point() else None
            module.to(device=self.setup.backbone.device(layer), dtype=dtype)
            if self.mode == "drop":
                module.eval()  # no dropout: it would choose other tokens each time

    def _install(self) -> None:
        model, backbone = self.setup.backbone.model, self.setup.backbone
        try:
            self._before(model, self._begin)
            inputs, outputs = self._inputs, self._outputs
            for index, layer in enumerate(backbone.layers):
                if index in inputs:
                    self._before(layer, partial(self._before_layer, index))
                if index in outputs:
                    self._after(layer, partial(self._after_layer, index))
            for block in self._watched_blocks():
                self._after(block, self._after_block, with_kwargs=True)
            self._before(backbone.decoder, self._enter)
            self._after(backbone.decoder, self._finish)
            self._after(model, self._end, always_call=True)
            if self.setup.plugin.lora is not None and self.mode != "record":
                self._hooks += hook_lora(self.setup.plugin.lora, model, drop=self.mode == "drop")
            self._watch = Watch(backbone, self.setup.facts, self._encoded)
            if self.mode == "drop" and hasattr(model, "generate"):
                self._guard = Guard(model)
            _forget_compiled()
        except BaseException:
            self.remove()
            raise

    @property
    def _inputs(self) -> Container[int]:
        """The layers whose input is read or changed; a stage may look one layer back."""
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

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.setup.backbone.model.forward)

    @property
    def _running(self) -> Forward | None:
        return getattr(self._local, "forward", None)

    def _begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = self._signature.bind_partial(*args, **kwargs).arguments
        arguments |= arguments.pop("kwargs", {})
        trace, prompt = (getattr(self._local, name, None) for name in ("trace", "prompt"))
        generating = self._guard is not None and self._guard.generating
        call = Call.of(arguments, prompt, generating)
        self._local.forward = open_forward(self.setup, self.mode, call, trace)
        self._local.forward.entry.encoded = carried(arguments.get("mm_encoder_outputs"))

    def _encoded(self, facts: Facts) -> None:
        if self._running is not None:
            self._running.entry.encoded = facts

    def _enter(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        running = self._running
        if running is None:
            return None
        if running.wants_guide:
            guide = AheadForward(self.setup, running.tokens)
            self._local.forward = guide
            try:
                running.seen.guide = guide.attention(decoder, args, kwargs)
            finally:
                self._local.forward = running
        return args, running.enter(kwargs)

    def _watched_blocks(self) -> list[nn.Module]:
        """The blocks whose inputs and outputs a stage behind them asks for."""
        plugin, backbone = self.setup.plugin, self.setup.backbone
        asking = [at for at in plugin.schedule.layers if "transitions" in plugin.pruner(at).needs]
        layers = range(asking[0] - 1, asking[-1]) if asking else ()
        return [block for layer in layers for block in backbone.blocks(layer)]

    def _after_block(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        running = self._running
        if running is not None:
            entered = args[0] if args else kwargs["hidden_states"]
            running.after_block(entered, output[0] if isinstance(output, tuple) else output)

    def _before_layer(
        self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        running = self._running
        if running is None:
            return None  # the decoder is called by itself, outside the model
        hidden, kwargs = running.before_layer(index, args[0], kwargs)
        return (hidden, *args[1:]), kwargs

    def _after_layer(
        self, index: int, _: nn.Module, __: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        running = self._running
        return None if running is None else running.after_layer(index, output)

    def _finish(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        running = self._running
        if running is None:
            return None
        if isinstance(output, tuple):
            return (running.finish(output[0]), *output[1:])
        output.last_hidden_state = running.finish(output.last_hidden_state)
        return output

    def _end(self, *_: Any) -> None:
        self._local.forward = None


def _forget_compiled() -> None:
    """Let compiled models be compiled anew: their graphs do not notice that hooks come and go."""
    torch.compiler.reset()
