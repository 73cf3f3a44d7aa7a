"""Types of models that are known and cannot be supported, or not yet, and why.

Each reason follows the model's name in a sentence.
"""

_ENCODER_DECODER = "is an encoder-decoder: its decoder attends to what an encoder made of the image"
_CROSS_ATTENTION = "looks at images by cross-attention: its prompt holds no visual tokens to drop"
_NO_ROTARY = (
    "has a decoder without rotary embedding, whose positions are part of its rows' embeddings"
)
_NOT_YET = "; stages before the decoder alone could serve it: not yet"
RUNNING_STATE = (
    "has decoder layers that carry a running state (linear attention or convolution), which "
    "dropped tokens have already entered"
)
_RECURRENT = f"{RUNNING_STATE}{_NOT_YET}"
_INDEXED = (
    "has layers that choose their keys by an index of their own, whose cached rows would have to "
    f"be dropped as well{_NOT_YET}"
)
_NO_ROTARY_LAYERS = (
    "may give layers no rotary embedding at all, where a stage looks for one: not yet"
)
_LATENT = "makes its keys from latent vectors, by projections that a stage does not know: not yet"

REFUSED = {
    "blip": _CROSS_ATTENTION,
    "blip-2": _NO_ROTARY + " (OPT), or an encoder-decoder (T5)",
    "chameleon": "reads images as words of its own vocabulary, drawn by a tokeniser: not yet",
    "cohere_compass": _NO_ROTARY_LAYERS,
    "diffusion_gemma": "writes a block of words at a time by diffusion, and not word by word",
    "dots3_note": _INDEXED,
    "emu3": "reads images as words of its own vocabulary, drawn by a tokeniser: not yet",
    "ernie4_5_vl_moe": "tells each layer which rows are images, by a mask that dropping does not "
    "shorten: not yet",
    "evolla": "reads proteins, and by cross-attention",
    "florence2": _ENCODER_DECODER,
    "fuyu": "makes queries and keys by one projection, which a stage cannot take apart: not yet",
    "git": f"{_NO_ROTARY}; image rows stand before the prompt and under no token of it",
    "glm5_next": _RECURRENT,
    "granite4_vision": "adds its visual tokens between the layers, to rows that are empty before: "
    "not yet",
    "hunyuan_vl": "has a fourth axis of positions, which closing gaps does not know: not yet",
    "idefics": _CROSS_ATTENTION,
    "inkling2": _RECURRENT,
    "inkling_mm_model": _RECURRENT,
    "instructblip": _NO_ROTARY + " (OPT), or an encoder-decoder (T5)",
    "instructblipvideo": _NO_ROTARY + " (OPT), or an encoder-decoder (T5)",
    "kimi_k25": _LATENT,
    "kosmos-2": _NO_ROTARY,
    "kosmos-2.5": _NO_ROTARY,
    "minimax_m3_vl": _INDEXED,
    "mistral4": "reads text alone: there is no image in its prompt",
    "mistral_large4": _INDEXED,
    "mllama": _CROSS_ATTENTION,
    "muse_glimmer": _NO_ROTARY_LAYERS,
    "muse_spark": _NO_ROTARY_LAYERS,
    "nemotron_h_omni": _RECURRENT,
    "pi0": "moves a robot: it writes no text",
    "pix2struct": _ENCODER_DECODER,
    "pp_formulanet": _ENCODER_DECODER,
    "qwen4_exp": _RECURRENT,
    "t5gemma2": _ENCODER_DECODER,
    "udop": _ENCODER_DECODER,
    "unlimited_ocr": "attends to its whole prompt and to a window of its answer, on a cache that "
    "tells the two apart by their length: not yet",
    "vision-encoder-decoder": _ENCODER_DECODER,
}
"""Model type → what stands in the way."""
