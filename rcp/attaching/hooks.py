"""What is put on a model and must bear what happens to models: copies, threads, compilation."""

import threading
from collections.abc import Callable
from typing import Any

import torch


class Hook:
    """``call``, a bound method or a ``partial`` of one, as a forward hook.

    ``torch.compile`` leaves it alone. A copy of the model has hooks of its own: they are bound to
    the copy of what ``call`` was bound to, which a function would not be.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self._untraced = torch.compiler.disable(call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._untraced(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.call,)


class OfThread(threading.local):
    """What belongs to the running thread; copied or pickled, nothing is in it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
