"""Names of our own classes: a file's say-so is looked up here, never imported."""

import importlib
import pkgutil
from typing import Any

from rcp.errors import UserError
from rcp.quoting import quoted


class Registry:
    """Classes of one kind by name; filled by ``__init_subclass__`` of the kind's base class.

    The modules of ``package`` are imported on first use, so that a new method is one new file
    and nothing else. A class defined outside the package registers itself the same way.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type] = {}
        self._discovered = False

    def register(self, name: str, cls: type) -> None:
        """Enter ``cls`` under ``name``; another class of that name raises ``UserError``.

        One with the same qualified name takes its place: its file has been run again.
        """
        present = self._classes.get(name)
        if present is not None and _place(present) != _place(cls):
            raise UserError(
                f"Two classes claim the {self.kind} name '{name}': {present.__module__}."
                f"{present.__qualname__} and {cls.__module__}.{cls.__qualname__}. Rename one."
            )
        self._classes[name] = cls

    def names(self) -> list[str]:
        """All known names, sorted."""
        self._discover()
        return sorted(self._classes)

    def get(self, name: str) -> Any:
        """The class called ``name``; raises ``UserError`` listing what there is."""
        self._discover()
        if name not in self._classes:
            known = ", ".join(sorted(self._classes))
            raise UserError(
                f"There is no {self.kind} called {quoted(name)}. Known: {known}. Choose one of "
                f"these, or import the module that defines your own first (--import FILE)."
            )
        return self._classes[name]

    def _discover(self) -> None:
        if self._discovered:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._discovered = True


def _place(cls: type) -> tuple[str, str]:
    """Where a class is defined; one defined again, as in a notebook, takes its own place."""
    return cls.__module__, cls.__qualname__
