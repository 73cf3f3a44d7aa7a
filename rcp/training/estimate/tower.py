"""What a vision tower costs in which a plug-in drops patches."""

from rcp.backbones import Backbone
from rcp.base_model.cost import tower_flops
from rcp.base_model.sizes import tower_sizes
from rcp.choosing.fusing import patches_by_step
from rcp.plugin import Plugin
from rcp.training.estimate.teaching import GIGA


def tower_lines(backbone: Backbone, plugin: Plugin) -> list[str]:
    """Its line of `python -m rcp estimate`; none where the tower stays whole.

    Raises ``UserError`` where patches cannot go in the blocks that the plug-in names.
    """
    tower, patches = plugin.spec.tower, backbone.visual_tokens
    if tower is None:
        return []
    tower.check_on(backbone)
    assert patches is not None, "images of CLIP are of one size"
    left = dict(zip(tower.blocks, patches_by_step(patches, tower.keep, len(tower.blocks))))
    sizes = tower_sizes(backbone)
    whole, short = (tower_flops(sizes, patches, blocks) for blocks in ({}, left))
    behind = ", ".join(f"{count} behind block {block}" for block, count in left.items())
    return [
        f"Vision tower and projector: {short / GIGA:.4g} of {whole / GIGA:.4g} GFLOPs an image "
        f"({short / whole:.1%}); of {patches} patches are left {behind}"
    ]
