"""What unmodified models get wrong on some releases, where no plug-in can be right.

Measured with no plug-in attached, on 5.17 to 5.23; a test proves each entry on the release it runs
on, so that an entry that has become untrue is noticed.
"""

import transformers

RELEASE = tuple(int(part) for part in transformers.__version__.split(".")[:2])

_MROPE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v")

BEAMS = ("llava-llama",) if RELEASE < (5, 19) else ()
"""Cases whose beam search with a cache differs from the one without."""

SHUFFLED_BEAMS = ("qwen3_vl",) if RELEASE == (5, 18) else ()
"""Cases whose beams are shown other images than their sample's, where it has several."""

IMAGES_OF_BEAMS = ("llama4",)
"""Cases whose beam search does not repeat an image for each beam: ValueError, on 5.23."""

CLIPS = ("gemma4", "gemma4_unified") if (5, 19) <= RELEASE < (5, 23) else ()
"""Model types that refuse their own processor's clips: ValueError, since the model does not hand
the number of frames on."""

DRAFTS = ("gemma3-window",) if RELEASE < (5, 18) else ()
"""Cases whose sliding windows fail under a draft model: RuntimeError, sizes of the mask."""

FIRST_IMAGE_LATER = (*_MROPE, "gemma3-window") if RELEASE < (5, 23) else ()
"""Cases that get an image wrong which is the first one, on a cache that holds text."""

SECOND_IMAGE_LATER = (*_MROPE, *FIRST_IMAGE_LATER)
"""Cases that get a further image wrong on a cache that holds one. M-RoPE models read the grids of
all images from those handed over: StopIteration from 5.23 on, wrong positions before."""
