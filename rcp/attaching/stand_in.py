"""One method of one object replaced for a while."""

import functools
from collections.abc import Callable
from typing import Any


class StandIn:
    """Calls ``instead(before, *args, **kwargs)`` for the method ``name`` of ``host``.

    ``before`` is what ``host`` answered to until now: its class's method, or what others set on
    the instance itself (tracing, a server). :meth:`undo` puts it back. Signature and docstring are
    those of ``before``, as `generate` reads them. A copy of the host is called by a copy of this,
    which therefore holds no closure.
    """

    def __init__(self, host: Any, name: str, instead: Callable[..., Any]) -> None:
        self.host = host
        self.name = name
        self.instead = instead
        self.before = getattr(host, name)
        self.undone = False
        self._on_instance = name in vars(host)
        # not the attributes of `before`, which may be such an object itself
        functools.update_wrapper(self, self.before, updated=())
        setattr(host, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.undone:  # others still hold it
            return self.before(*args, **kwargs)
        return self.instead(self.before, *args, **kwargs)

    def undo(self) -> None:
        """Give the host back what it had; safe to call twice, and while others stand before it."""
        self.undone = True
        top = vars(self.host).get(self.name)
        while isinstance(top, StandIn) and top.undone:
            if top._on_instance:
                setattr(self.host, self.name, top.before)
            else:
                delattr(self.host, self.name)
            top = vars(self.host).get(self.name)
