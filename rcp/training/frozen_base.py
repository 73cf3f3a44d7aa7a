"""The base that a training stands on: refused before its weights are read, loaded, and frozen."""

from typing import Any

from rcp.backbones import refuse_untrainable
from rcp.base_model.loading import BaseDtype, BaseNotLoaded, config_of, load_base
from rcp.errors import UserError


def load_frozen(base: str, dtype: BaseDtype) -> tuple[Any, Any]:
    """Model and processor of ``base``, in evaluation mode, without gradients.

    Raises ``UserError`` for a family that cannot be trained on, and for a base that cannot be
    loaded.
    """
    refuse_untrainable_base(base)
    try:
        model, processor = load_base(base, dtype)
    except BaseNotLoaded as error:
        raise UserError(f"{error} It is what model.base names.") from error
    return model.requires_grad_(False), processor


def refuse_untrainable_base(base: str) -> None:
    """Raise ``UserError`` where ``base`` is of a family that no plug-in can be trained on.

    Its configuration alone is read; where that cannot be, nothing is said.
    """
    config = config_of(base)
    if config is not None:
        name = (config.architectures or [type(config).__name__])[0]
        refuse_untrainable(config.model_type, f"{name} ('{base}')")
