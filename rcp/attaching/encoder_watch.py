"""What the vision side computed for one request, carried on the very output it computed.

``generate`` encodes images before the first forward, evaluation even before a plug-in is attached.
So the facts a method needs of the vision side are taken while images are encoded and live on the
encoder's output: they belong to the request, reach the prefill that consumes the output, and die
with it.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rcp.attaching.hooks import Hook, OfThread
from rcp.attaching.stand_in import StandIn
from rcp.backbones import Backbone, backbone_for
from rcp.backbones.tower import SURVIVORS, VISION_FACTS

ATTRIBUTE = "rcp_vision"
LEVEL = "encoder_levels."
"""With its number behind it, one of them while they are taken."""

VisionFacts = dict[str, Tensor]
"""Fact → (visual tokens, F), the images of a batch one after the other."""


class Watch:
    """Takes ``facts`` (of :data:`VISION_FACTS`) whenever ``backbone``'s model encodes images, and
    keeps what others :meth:`note` then, :data:`SURVIVORS`.

    ``deliver``, if given, is also called with them: where images are encoded inside a forward,
    nobody sees the encoder's output. Hooks and one method stand in until :meth:`remove`.
    """

    def __init__(
        self,
        backbone: Backbone,
        facts: Iterable[str],
        deliver: Callable[[VisionFacts], None] | None = None,
    ) -> None:
        self.backbone = backbone
        self.facts = [fact for fact in vision_facts(facts) if fact != "projector"]
        self.deliver = deliver
        self._local = OfThread()  # the encoding now running in this thread
        self._hooks: list[Any] = []
        self._stand_in: StandIn | None = None
        if self.facts:
            self._install()

    def remove(self) -> None:
        """Take everything off the model again; safe to call twice."""
        if self._stand_in is not None:
            self._stand_in.undo()
        while self._hooks:
            self._hooks.pop().remove()

    @property
    def encoding(self) -> bool:
        """Whether images are now being encoded in this thread."""
        return getattr(self._local, "taken", None) is not None

    def note(self, fact: str, value: Tensor) -> None:
        """Put ``value`` (images, rows, F) beside what is taken of the images now encoded."""
        self._local.taken[fact] = value

    def _install(self) -> None:
        tower = self.backbone.tower
        assert tower is not None, "Backbone.check_fact comes first"
        if "encoder_tokens" in self.facts:
            self._hook(tower.projector, "encoder_tokens", Tensor.detach)
        for fact, measure in tower.of_attention.items():
            if fact in self.facts:
                self._hook(tower.attention, fact, measure)
        if "patch_entropy" in self.facts:
            self._hook(tower.encoder.embeddings, "patch_entropy", tower.entropy)
        if "encoder_levels" in self.facts:
            for number, block in enumerate(tower.levels):
                self._hook(tower.blocks[block], f"{LEVEL}{number}", tower.rows)
        host = self.backbone.model.base_model
        self._stand_in = StandIn(host, "get_image_features", self._encode)

    def _hook(self, module: nn.Module, fact: str, measure: Callable[[Tensor], Tensor]) -> None:
        hook = Hook(functools.partial(self._take, fact, measure))
        self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _take(
        self,
        fact: str,
        measure: Callable[[Tensor], Tensor],
        _: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if self.encoding:
            with torch.no_grad():
                name = "pixel_values" if "pixel_values" in kwargs else "hidden_states"
                self.note(fact, measure(args[0] if args else kwargs[name]))

    def _encode(self, before: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of the model's ``get_image_features``."""
        host = self.backbone.model.base_model
        self._local.taken = {}
        try:
            output = before(*args, **kwargs)
            taken = self._local.taken
        finally:
            self._local.taken = None
        if self.deliver is not None and hasattr(output, ATTRIBUTE):
            self.deliver(getattr(output, ATTRIBUTE))  # given, with what was taken beforehand
        if not taken:
            return output
        call = _by_name(type(host).get_image_features, host, args, kwargs)
        taken = _levels_joined(taken)
        facts = {name: self.backbone.packed(value, call) for name, value in taken.items()}
        if not isinstance(output, (tuple, Tensor)):
            setattr(output, ATTRIBUTE, facts)
        if self.deliver is not None:
            self.deliver(facts)
        return output


def _levels_joined(taken: VisionFacts) -> VisionFacts:
    """``taken`` with the levels of the encoder beside each other in one fact."""
    names = sorted(name for name in taken if name.startswith(LEVEL))
    others = {name: value for name, value in taken.items() if name not in names}
    if not names:
        return others
    return others | {"encoder_levels": torch.cat([taken[name] for name in names], dim=-1)}


@contextmanager
def watching(model: nn.Module, facts: Iterable[str]) -> Iterator[None]:
    """Inside, images are encoded with ``facts`` on their outputs: for outputs made beforehand.

    Raises ``UserError`` if the model cannot give one of them.
    """
    backbone = backbone_for(model)
    facts = vision_facts(facts)
    for fact in facts:
        backbone.check_fact(fact)
    watch = Watch(backbone, facts)
    try:
        yield
    finally:
        watch.remove()


def vision_facts(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that come from the vision side."""
    wanted = set(names)
    return [fact for fact in (*VISION_FACTS, SURVIVORS) if fact in wanted]


def carried(outputs: Any) -> VisionFacts:
    """The facts on the ``mm_encoder_outputs`` of a model's call; none if nobody took any."""
    image = (outputs or {}).get("image")
    return getattr(image, ATTRIBUTE, {})


def hand_over(source: Any, target: Any) -> Any:
    """``target``, an encoder's output made of ``source``, with the facts that are on ``source``."""
    if hasattr(source, ATTRIBUTE):
        setattr(target, ATTRIBUTE, getattr(source, ATTRIBUTE))
    return target


def _by_name(
    function: Callable[..., Any], host: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    call = inspect.signature(function).bind_partial(host, *args, **kwargs).arguments
    return call | call.pop("kwargs", {})
