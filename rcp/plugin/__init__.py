"""What is trained and saved: the plug-in, its low-rank adapters, and what they are made from."""

from rcp.plugin.lora import Lora, LoraSpec
from rcp.plugin.plugin import Plugin, fitted
from rcp.plugin.spec import PluginSpec, RepairSpec, StageSpec, stages_of
from rcp.plugin.tower import TowerSpec

__all__ = ["Lora", "LoraSpec", "Plugin", "PluginSpec", "RepairSpec", "StageSpec", "TowerSpec",
           "fitted", "stages_of"]
