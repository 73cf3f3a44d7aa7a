"""Accuracy and cost of plug-ins beside their controls, with the tokens really gone."""

from rcp.evaluation.contestants import Contestant
from rcp.evaluation.rows import Row

__all__ = ["Contestant", "Row"]
