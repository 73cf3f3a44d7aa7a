"""Train, export and attach plug-ins that prune visual tokens of frozen vision-language models."""

from rcp.attach import Handle, attach
from rcp.errors import UserError
from rcp.io import load, load_plugin, save_plugin
from rcp.lora import LoraSpec
from rcp.plan import KeepPlan
from rcp.plugin import Plugin, PluginSpec, RepairSpec, StageSpec
from rcp.pruners import Pruner
from rcp.relaxation import Relaxation
from rcp.repair import RepairAdapter
from rcp.schedule import Schedule, schedule_for
from rcp.state import plan_of
from rcp.version import __version__
from rcp.view import View

__all__ = [
    "Handle",
    "KeepPlan",
    "LoraSpec",
    "Plugin",
    "PluginSpec",
    "Pruner",
    "Relaxation",
    "RepairAdapter",
    "RepairSpec",
    "Schedule",
    "StageSpec",
    "UserError",
    "View",
    "__version__",
    "attach",
    "load",
    "load_plugin",
    "plan_of",
    "save_plugin",
    "schedule_for",
]
