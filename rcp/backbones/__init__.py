"""What must be known about each family of Hugging Face models: one file a family."""

from rcp.backbones.base import Backbone, backbone_for, refuse_untrainable
from rcp.backbones.unwrapping import unwrapped

__all__ = ["Backbone", "backbone_for", "refuse_untrainable", "unwrapped"]
