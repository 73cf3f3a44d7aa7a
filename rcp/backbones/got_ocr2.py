"""GOT-OCR 2 and PP-Chart2Table: tiles of a SAM tower, joined by convolutions, a Qwen2 decoder."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, tiled


class GotOcr2(Backbone):
    model_types = ("got_ocr2", "pp_chart2table")
    title = "GOT-OCR 2, PP-Chart2Table"
    limits = "a token's place is that in its tile: the model is not told how tiles are laid out"

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        vision = self.config.vision_config
        return tiled(image, vision.image_size // vision.patch_size // 4)  # halved twice
