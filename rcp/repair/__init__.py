"""What gives back, near the output, what dropping has cost."""

from rcp.repair.base import REPAIRS, RepairAdapter

__all__ = ["REPAIRS", "RepairAdapter"]
