"""One file a method, learned and training-free alike; a new method is a new file."""

from rcp.pruners.base import PRUNERS, Pruner

__all__ = ["PRUNERS", "Pruner"]
