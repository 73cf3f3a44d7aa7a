"""The only code that hooks a model: ``attach(model, plugin, mode)``."""

import inspect
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from rcp.backbones import Backbone, backbone_for
from rcp.choosing.keep_plan import KeepPlan
from rcp.choosing.relaxation import Relaxation
from rcp.choosing.schedule import mean_ratio_of
from rcp.encoding import Facts, Watch, carried
from rcp.errors import UserError
from rcp.forwards.base import Forward, Setup
from rcp.forwards.entry import entry_facts
from rcp.forwards.guide import GuideForward
from rcp.forwards.opening import open_forward
from rcp.forwards.trace import Trace
from rcp.generation import Guard
from rcp.hooks import Hook, OfThread
from rcp.plugin import Plugin

MODES = ("drop", "soft", "record")


def attach(
    model: nn.Module,
    plugin: Plugin,
    mode: str = "drop",
    *,
    plan: KeepPlan | None = None,
    relaxation: Relaxation | None = None,
    budget: float | None = None,
) -> "Handle":
    """Attach ``plugin`` to an unmodified Hugging Face ``model``.

    ``mode``: "drop" infers with the tokens physically gone, "soft" trains with them masked,
    "record" only observes. ``plan`` replays a recorded choice instead of making one;
    ``relaxation`` softens and perturbs the choice while training. ``budget`` is for plug-ins
    trained for a range of them: visual tokens, mean over layers; below 1 a share of them. The
    plug-in's parts move to the devices of the layers they act on, and in "drop" mode to the
    model's dtype and out of training mode.

    Use the returned handle as a context manager, or call its ``remove``: afterwards the model
    is bit for bit what it was. Raises ``UserError`` for an unknown mode or family, another base
    than the plug-in's own, a plan of other stages, or a model that already has a plug-in attached.
    """
    if mode not in MODES:
        raise UserError(f"mode '{mode}' is unknown. Choose one of {', '.join(MODES)}.")
    if not isinstance(plugin, Plugin):
        raise UserError(
            f"attach takes a plug-in, not {type(plugin).__name__}. Read an exported folder by "
            f"rcp.load_plugin first, or make one by rcp.Plugin.for_model."
        )
    backbone = backbone_for(model)
    _refuse_second(backbone)
    if plugin.base is not None:
        plugin.base.check(backbone)
    if (plugin.hidden_size, plugin.num_layers) != (backbone.hidden_size, len(backbone.layers)):
        raise UserError(
            f"This plug-in fits decoders of width {plugin.hidden_size} with {plugin.num_layers} "
            f"layers; {type(model).__name__} has width {backbone.hidden_size} and "
            f"{len(backbone.layers)} layers. Attach it to the base it was made for."
        )
    if budget is not None:
        plugin = plugin.at_budget(mean_ratio_of(budget, backbone.visual_tokens))
    if mode == "soft" and backbone.attention not in ("sdpa", "eager"):
        raise UserError(
            f"Training masks need a 4-D attention mask, which '{backbone.attention}' does not "
            f'take. Load the model with attn_implementation="sdpa".'
        )
    if mode == "drop":
        _check_backend(backbone, plugin)
    _check_positions(backbone, plugin)
    if plan is not None and plan.layers != plugin.schedule.layers[: len(plan.layers)]:
        raise UserError(
            f"The plan was made at layers {list(plan.layers)}, the plug-in's stages are at "
            f"{list(plugin.schedule.layers)}. Replay it on a plug-in with the same stages."
        )
    facts = entry_facts(backbone, plugin) if plan is None else frozenset()
    return Handle(Setup(backbone, plugin, plan, relaxation, facts), mode)


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
        logits get a leaf of zeros for :func:`rcp.relevance.relevance`. Raises ``UserError`` for
        answer rows that "drop" mode does not have.
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
                self._hooks += self.setup.plugin.lora.hook(model, drop=self.mode == "drop")
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
        call = self._signature.bind_partial(*args, **kwargs).arguments
        call |= call.pop("kwargs", {})
        trace, prompt = (getattr(self._local, name, None) for name in ("trace", "prompt"))
        generating = self._guard is not None and self._guard.generating
        self._local.forward = open_forward(
            self.setup, self.mode, call, trace, prompt, generating=generating
        )
        self._local.forward.encoded(carried(call.get("mm_encoder_outputs")))

    def _encoded(self, facts: Facts) -> None:
        if self._running is not None:
            self._running.encoded(facts)

    def _enter(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        running = self._running
        if running is None:
            return None
        if running.wants_guide:
            guide = GuideForward(self.setup, running.tokens)
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


def _check_backend(backbone: Backbone, plugin: Plugin) -> None:
    """Refuse attention backends whose masks dropping cannot build."""
    attention = backbone.attention
    if attention not in ("sdpa", "eager") and not attention.startswith("flash"):
        raise UserError(
            f"Dropping builds masks for sdpa, eager and flash attention, not for '{attention}'. "
            f'Load the model with attn_implementation="sdpa".'
        )
    pruned = range(min(plugin.schedule.layers, default=0), len(backbone.layers))
    windows = [layer for layer in pruned if backbone.windows[layer] is not None]
    if attention.startswith("flash") and plugin.schedule.layers and windows:
        raise UserError(
            f"'{attention}' counts the sliding window of layer {windows[0]} in cached rows, which "
            f"are no longer neighbours once tokens are dropped. Load the model with "
            f'attn_implementation="sdpa".'
        )


def _check_positions(backbone: Backbone, plugin: Plugin) -> None:
    """Refuse to close gaps where something besides the rotary embedding counts places."""
    windows = [layer for layer, window in enumerate(backbone.windows) if window is not None]
    if plugin.spec.position_policy == "repack" and windows:
        raise UserError(
            f"position_policy 'repack' is impossible in {type(backbone.model).__name__}: the "
            f"sliding window of layer {windows[0]} counts places in the original prompt, so closed "
            f"gaps would not be closed for it. Use position_policy 'keep'."
        )


def _forget_compiled() -> None:
    """Let compiled models be compiled anew: their graphs do not notice that hooks come and go."""
    torch.compiler.reset()


def _refuse_second(backbone: Backbone) -> None:
    for hook in backbone.decoder._forward_pre_hooks.values():
        if isinstance(hook, Hook):
            raise UserError(
                "This model already has a plug-in attached. Remove that handle first, or leave "
                "its `with` block."
            )
