"""A tiny random model and inputs for it, for every supported family.

``FAMILIES`` maps a name to a function that builds the case; ``ENTRY_FAMILIES`` likewise, of those
that lose tokens before their decoder alone. A backbone without a case here makes
``test_families.py`` fail.
"""

import importlib
import pkgutil
from collections.abc import Callable

from .case import Case, Sample

FAMILIES: dict[str, Callable[[], Case]] = {}
ENTRY_FAMILIES: dict[str, Callable[[], Case]] = {}
for _module in pkgutil.iter_modules(__path__):
    try:
        _file = importlib.import_module(f"{__name__}.{_module.name}")
    except ImportError:  # of families that came with a later release of transformers
        continue
    FAMILIES |= getattr(_file, "CASES", {})
    ENTRY_FAMILIES |= getattr(_file, "ENTRY_CASES", {})

__all__ = ["ENTRY_FAMILIES", "FAMILIES", "Case", "Sample"]
