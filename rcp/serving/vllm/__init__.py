"""Plug-ins with a stage before the decoder in vLLM, which finds :func:`register` by an entry point.

What is imported here and in the modules beside it knows no vLLM, but for ``processor``, ``pruned``
and the families', which vLLM imports by name.
"""

ARCHITECTURES = {
    "LlavaForConditionalGeneration": "llava:PrunedLlava",
    "LlavaNextForConditionalGeneration": "llava_next:PrunedLlavaNext",
    "LlavaOnevisionForConditionalGeneration": "llava_next:PrunedLlavaOnevision",
    "Qwen2VLForConditionalGeneration": "qwen_vl:PrunedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "qwen_vl:PrunedQwen2_5_VL",
    "Qwen3VLForConditionalGeneration": "qwen_vl:PrunedQwen3VL",
}
"""Those of models that are served, and the module and class here that serve them."""

ONE_SIZE = ("LlavaForConditionalGeneration",)
"""Of them those whose images have as many tokens, whatever their size."""

PLACED = tuple(name for name in ARCHITECTURES if name.startswith("Qwen"))
"""Of them those whose positions are places: the decoders of the others count theirs."""

WITH_VIDEOS = (*PLACED, "LlavaOnevisionForConditionalGeneration")
"""Of them those that take videos, too, whose frames nothing prunes here."""


def served_name(architecture: str) -> str:
    """What vLLM calls ``architecture`` where it prunes."""
    return f"Rcp{architecture}"


def register() -> None:
    """Make the pruned architectures known; vLLM calls it in each of its processes.

    They are registered by name, so that nothing is imported unless a config asks for one.
    """
    from vllm import ModelRegistry

    known = ModelRegistry.get_supported_archs()
    for architecture, place in ARCHITECTURES.items():
        if served_name(architecture) not in known:
            ModelRegistry.register_model(served_name(architecture), f"{__name__}.{place}")
