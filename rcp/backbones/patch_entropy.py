"""How much there is to see in each patch of an image, by the grey levels in it."""

import torch
from torch import Tensor

LEVELS = 256
LUMINANCE = (0.299, 0.587, 0.114)


def entropy_shares(pixels: Tensor, patch: int) -> Tensor:
    """Softmax over an image's patches of the Shannon entropy of their grey levels, in bits.

    ``pixels`` (images, 3, H, W), as the vision tower gets them, and the side of its patches →
    (images, patches, 1) fp32, in raster order. VFlowOpt [code]; the 256 levels are spread between
    the darkest and the brightest pixel of each image, since normalised pixels do not say what
    black and white were. [ours]
    """
    grey = (pixels.float() * pixels.new_tensor(LUMINANCE).float()[:, None, None]).sum(1)
    darkest, brightest = grey.amin((1, 2), keepdim=True), grey.amax((1, 2), keepdim=True)
    share = (grey - darkest) / (brightest - darkest).clamp(min=1e-12)
    level = (share * LEVELS).long().clamp(max=LEVELS - 1)
    patches = level.unfold(1, patch, patch).unfold(2, patch, patch).flatten(3).flatten(1, 2)
    seen = torch.zeros(*patches.shape[:2], LEVELS, device=pixels.device)
    seen = seen.scatter_add(2, patches, torch.ones_like(patches, dtype=seen.dtype)) / patch**2
    entropy = -(seen.clamp(min=1e-30).log2() * seen).sum(2, keepdim=True)
    return entropy.softmax(1)
