"""Idefics2: a resampler, whose learned queries each look at the whole image."""

from rcp.backbones.unplaced import FROM_THE_WHOLE, Unplaced


class Idefics2(Unplaced):
    model_types = ("idefics2",)
    title = "Idefics2"
    limits = FROM_THE_WHOLE

    @property
    def visual_tokens(self) -> int:
        return self.config.perceiver_config.resampler_n_latents
