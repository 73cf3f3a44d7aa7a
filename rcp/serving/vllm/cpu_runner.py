"""vLLM's runner for CPUs has a way of its own to load models, which leaves one question out."""

import functools
from typing import Any


def ask_whether_models_prune() -> None:
    """Let the runner for CPUs ask a model for positions once its images are encoded.

    Other runners see after loading whether the model prunes. This one (vLLM 0.32) does not, and is
    already loading when a model can say so: it is asked each time instead.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    gather = CPUModelRunner._gather_mm_embeddings
    if hasattr(gather, "__wrapped__"):
        return

    @functools.wraps(gather)
    def asking(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.is_multimodal_pruning_enabled = hasattr(self.model, "pruning")
        return gather(self, *args, **kwargs)

    CPUModelRunner._gather_mm_embeddings = asking
