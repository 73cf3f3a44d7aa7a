"""Gradient checkpointing in a frozen model, which stays in evaluation mode."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rcp.attaching.lora_hooks import hook_lora, is_hooked
from rcp.backbones import Backbone
from rcp.plugin.lora import Lora


def checkpoint_layers(model: Any, lora: Lora | None) -> None:
    """Let the layers of ``model`` keep their inputs only and compute the rest again.

    Not reentrant: the only kind through which masks that carry gradients get theirs. The backward
    pass comes when the plug-in is detached: what ``lora`` added in a forward, it then adds again.
    """

    def forward_and_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        if lora is None or not is_hooked(lora, model):
            return nullcontext(), nullcontext()
        return nullcontext(), WithLora(model, lora)

    older = "gradient_checkpointing_enable"  # the name before transformers 5.23
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else older)
    enable({"use_reentrant": False, "context_fn": forward_and_again})


class WithLora(AbstractContextManager[None]):
    """Inside, the modules of ``model`` add what ``lora`` gives; may be entered again and again."""

    def __init__(self, model: Any, lora: Lora) -> None:
        self.model = model
        self.lora = lora
        self.hooks: list[Any] = []

    def __enter__(self) -> None:
        self.hooks = hook_lora(self.lora, self.model)

    def __exit__(self, *_: object) -> None:
        while self.hooks:
            self.hooks.pop().remove()


def let_layers_checkpoint(backbone: Backbone) -> None:
    """Raise the decoder layers' own training flag, which transformers asks before it checkpoints.

    Their parts stay in evaluation mode, so that no dropout is switched on.
    """
    for layer in backbone.layers:
        layer.training = True
