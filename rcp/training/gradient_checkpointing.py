"""Gradient checkpointing in a frozen model, which stays in evaluation mode."""

from typing import Any

from rcp.backbones import Backbone


def checkpoint_layers(model: Any) -> None:
    """Let the layers of ``model`` keep their inputs only and compute the rest again.

    Not reentrant: the only kind through which masks that carry gradients get theirs.
    """
    older = "gradient_checkpointing_enable"  # the name before transformers 5.23
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else older)
    enable({"use_reentrant": False})


def let_layers_checkpoint(backbone: Backbone) -> None:
    """Raise the decoder layers' own training flag, which transformers asks before it checkpoints.

    Their parts stay in evaluation mode, so that no dropout is switched on.
    """
    for layer in backbone.layers:
        layer.training = True
