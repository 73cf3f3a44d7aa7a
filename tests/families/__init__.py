"""A tiny random model and inputs for it, for every supported family.

``FAMILIES`` maps a name to a function that builds the case. A backbone without a case here makes
``test_families.py`` fail.
"""

import importlib
import pkgutil
from collections.abc import Callable

from .case import Case, Sample

FAMILIES: dict[str, Callable[[], Case]] = {}
for _module in pkgutil.iter_modules(__path__):
    try:
        _file = importlib.import_module(f"{__name__}.{_module.name}")
    except ImportError:  # of families that came with a later release of transformers
        continue
    FAMILIES |= getattr(_file, "CASES", {})

__all__ = ["FAMILIES", "Case", "Sample"]
