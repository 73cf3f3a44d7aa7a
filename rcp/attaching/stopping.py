"""A forward that ends as soon as it has shown what was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


class _Stop(Exception):
    """Ends a forward that has shown what was asked for."""


@contextmanager
def stopping_at(layer: nn.Module) -> Iterator[None]:
    """A forward inside ends before ``layer`` computes, after the hooks it had before."""

    def stop(*_: Any) -> None:
        raise _Stop

    hook = layer.register_forward_pre_hook(stop)
    try:
        yield
    except _Stop:
        pass
    finally:
        hook.remove()
