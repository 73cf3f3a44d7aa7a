"""Train, export and attach plug-ins that prune visual tokens of frozen vision-language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rcp.errors import UserError
from rcp.version import __version__

if TYPE_CHECKING:
    from rcp.attaching.attach import attach
    from rcp.attaching.generation_state import plan_of
    from rcp.attaching.handle import Handle
    from rcp.choosing.keep_plan import KeepPlan
    from rcp.choosing.relaxation import Relaxation
    from rcp.choosing.schedule import Schedule, schedule_for
    from rcp.choosing.view import View
    from rcp.folder.read_write import load, load_plugin, save_plugin
    from rcp.plugin import Plugin, PluginSpec, RepairSpec, StageSpec
    from rcp.plugin.lora import LoraSpec
    from rcp.pruners import Pruner
    from rcp.repair import RepairAdapter

_HOMES = {
    "attaching.attach": ("attach",),
    "attaching.generation_state": ("plan_of",),
    "attaching.handle": ("Handle",),
    "choosing.keep_plan": ("KeepPlan",),
    "choosing.relaxation": ("Relaxation",),
    "choosing.schedule": ("Schedule", "schedule_for"),
    "choosing.view": ("View",),
    "folder.read_write": ("load", "load_plugin", "save_plugin"),
    "plugin": ("Plugin", "PluginSpec", "RepairSpec", "StageSpec", "TowerSpec"),
    "plugin.lora": ("LoraSpec",),
    "pruners": ("Pruner",),
    "repair": ("RepairAdapter",),
}

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
    "TowerSpec",
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


def __getattr__(name: str) -> Any:
    """Import a name's module when it is asked for: torch takes seconds that no help text needs."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
