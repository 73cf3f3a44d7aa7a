"""How a pruned model of vLLM starts, whatever its family."""

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor
from vllm.config import VllmConfig
from vllm.platforms import current_platform

from rcp.serving.vllm.cpu_runner import ask_whether_models_prune
from rcp.serving.vllm.decoder import FusedLayer
from rcp.serving.vllm.pruned import PrunedModel, Pruning
from rcp.serving.vllm.settings import Settings


class Started(PrunedModel):
    """Mixed into a family's model, in front of it. ``decoder`` is how its first layer is looked
    at, ``placeholder`` the field of its config that holds the token id of an image."""

    decoder: ClassVar[type[FusedLayer]]
    placeholder: ClassVar[str] = "image_token_index"

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        self.refuse_engine(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.pruning = Pruning(
            self.decoder(self), Settings.of(config), getattr(config, self.placeholder)
        )
        if current_platform.is_cpu():
            ask_whether_models_prune()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded: Any = super().load_weights(weights)  # type: ignore[misc]
        self.pruning.check_base()
        return loaded
