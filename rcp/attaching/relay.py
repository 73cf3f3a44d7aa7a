"""From the hooks on a model to the forward that runs in this thread."""

import inspect
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from rcp.attaching.cache_names import cache_among, cache_in
from rcp.attaching.encoder_watch import VisionFacts, carried
from rcp.attaching.forwards.ahead import AheadForward
from rcp.attaching.forwards.call import Call
from rcp.attaching.forwards.forward import Forward, Setup
from rcp.attaching.forwards.opening import open_forward
from rcp.attaching.generate_guard import Guard, refuse_pages
from rcp.attaching.hooks import OfThread


class Relay:
    """What the hooks of an attachment call, in the order of a forward.

    ``local`` belongs to the running thread: ``forward`` is set here, from :meth:`begin` to
    :meth:`end`; ``trace`` and ``prompt`` by the handle, for a ``with`` block. ``guard``, set once
    by the handle, tells whether `generate` calls. Outside a forward of the model, where its
    decoder is called by itself, hooks change nothing.
    """

    def __init__(self, setup: Setup, mode: str) -> None:
        self.setup = setup
        self.mode = mode
        self.guard: Guard | None = None
        self.local = OfThread()

    @property
    def running(self) -> Forward | None:
        """The forward of this thread; None outside one of the model."""
        return getattr(self.local, "forward", None)

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.setup.backbone.model.forward)

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: open the forward that accompanies this call."""
        arguments = self._signature.bind_partial(*args, **kwargs).arguments
        arguments |= arguments.pop("kwargs", {})
        trace, prompt = (getattr(self.local, name, None) for name in ("trace", "prompt"))
        guard = self.guard
        generating = guard is not None and guard.generating
        call = Call.of(arguments, prompt, generating, guard.budgets if guard is not None else ())
        refuse_pages(call.cache)
        self.local.forward = open_forward(self.setup, self.mode, call, trace)
        entry, outputs = self.local.forward.entry, arguments.get("mm_encoder_outputs")
        entry.encoded = carried(outputs)
        shown = arguments.get("pixel_values_videos"), (outputs or {}).get("video")
        entry.videos = any(video is not None for video in shown)

    def encoded(self, facts: VisionFacts) -> None:
        """What was taken of images encoded inside the forward goes to its entry."""
        if self.running is not None:
            self.running.entry.encoded = facts

    def enter(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Before the decoder, with the full model ahead of it where a stage asks."""
        running = self.running
        if running is None:
            return None
        if running.wants_full_attention:
            guide = AheadForward(self.setup, running.tokens)
            self.local.forward = guide
            try:
                running.seen.full_attention = guide.attention(decoder, args, kwargs)
            finally:
                self.local.forward = running
        return args, running.enter(kwargs)

    def before_layer(
        self, index: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Before layer ``index``: what it shall get instead."""
        running = self.running
        if running is None:
            return None  # the decoder is called by itself, outside the model
        hidden, kwargs = running.before_layer(index, args[0], kwargs)
        return (hidden, *args[1:]), kwargs

    def after_layer(
        self, index: int, _: nn.Module, __: tuple[Any, ...], output: Tensor
    ) -> Tensor | None:
        """After layer ``index``: what follows shall see instead of its ``output`` (B, R, D)."""
        running = self.running
        return None if running is None else running.after_layer(index, output)

    def after_block(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """After an attention or feed-forward block that a stage behind it watches."""
        running = self.running
        if running is not None:
            entered = args[0] if args else kwargs["hidden_states"]
            running.after_block(entered, output[0] if isinstance(output, tuple) else output)

    def finish(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """After the decoder: its output at the original length."""
        running = self.running
        if running is None:
            return None
        if isinstance(output, tuple):
            return (running.finish(output[0], cache_among(output)), *output[1:])
        hidden = running.finish(output.last_hidden_state, cache_in(output))
        output.last_hidden_state = hidden
        return output

    def end(self, *_: Any) -> None:
        """After the model, also where it failed."""
        self.local.forward = None
