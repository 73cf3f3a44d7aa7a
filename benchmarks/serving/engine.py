"""vLLM in this process, as the offline API starts it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.cases import Request
from rcp.serving.vllm.command_line import engine_arguments
from rcp.serving.vllm.settings import Settings

ON_A_CPU = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
LIMITS: dict[str, Any] = {
    "enforce_eager": True, "dtype": "float32", "max_model_len": 1024, "max_num_seqs": 16,
    "max_num_batched_tokens": 64,
}
"""A prompt is longer than a batch may be: it is filled in chunks, which images lie across."""


class Engine:
    """``base``, a model of ``architecture``, served with the plug-in of ``settings``."""

    def __init__(
        self,
        base: Path,
        settings: Settings,
        architecture: str = "LlavaForConditionalGeneration",
        **options: Any,
    ) -> None:
        os.environ.update(ON_A_CPU)
        from vllm import LLM

        arguments = engine_arguments(settings, architecture)
        self.model = LLM(
            model=str(base), seed=0, **(LIMITS | arguments | options)
        )

    def answers(self, requests: Sequence[Request], length: int) -> list[list[int]]:
        """Token ids of the greedy answers to ``requests``, which are sent together."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=length)
        prompts: Any = [prompt_of(request) for request in requests]
        made = self.model.generate(prompts, sampling, use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in made]


def prompt_of(request: Request) -> dict[str, Any]:
    """``request`` as the offline API takes it."""
    prompt: dict[str, Any] = {"prompt": request.prompt}
    if request.images:
        prompt["multi_modal_data"] = {"image": request.opened()}
    if request.budget is not None:
        prompt["mm_processor_kwargs"] = {"visual_budget": request.budget}
    if request.uuid is not None:
        prompt["multi_modal_uuids"] = {"image": [request.uuid]}
    return prompt
