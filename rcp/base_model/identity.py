"""Which model a plug-in belongs to, and the refusal of any other."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rcp.backbones import Backbone
from rcp.errors import UserError
from rcp.quoting import plain

TOLERANCE = 0.01
"""Relative; lets casts and 4-bit bases pass, since norms and embeddings are never quantised."""


@dataclass
class BaseIdentity:
    """Architecture, sizes and a few sampled values of a frozen base.

    ``samples`` holds short lists of values from tensors that quantisation leaves alone.
    """

    name_or_path: str
    architecture: str
    model_type: str
    hidden_size: int
    num_layers: int
    samples: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Backbone) -> "BaseIdentity":
        """The identity of the model behind ``backbone``."""
        return cls(
            name_or_path=str(backbone.config.name_or_path),
            architecture=type(backbone.model).__name__,
            model_type=backbone.config.model_type,
            hidden_size=backbone.hidden_size,
            num_layers=len(backbone.layers),
            samples=_samples(backbone),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def check(self, backbone: Backbone) -> None:
        """Raise ``UserError`` unless ``backbone`` is the model this identity was taken from."""
        self.check_same(BaseIdentity.of(backbone))

    def check_same(self, other: "BaseIdentity") -> None:
        """Raise ``UserError`` unless ``other`` was taken from the same model."""
        for name in ("architecture", "model_type", "hidden_size", "num_layers"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise UserError(
                    f"This plug-in was made for another base: its {name} is {plain(mine)}, the "
                    f"model's is {plain(theirs)}. Attach it to "
                    f"{plain(self.name_or_path) or 'the model it names'}."
                )
        for name, values in self.samples.items():
            if name not in other.samples:
                continue  # empty under ZeRO-3: there is nothing to compare here
            mine, theirs = torch.tensor(values), torch.tensor(other.samples[name])
            if mine.shape != theirs.shape:
                raise UserError(
                    f"This plug-in's description of its base is damaged: it holds {len(values)} "
                    f"{name} values, the model has {len(theirs)}. Export the plug-in again."
                )
            gap = (mine - theirs).norm() / mine.norm().clamp(min=1e-12)
            if not gap <= TOLERANCE:
                raise UserError(
                    f"This plug-in was made for another base: the model's {name} values differ by "
                    f"{gap:.1%} from those of {plain(self.name_or_path) or 'its base'}, at most "
                    f"{TOLERANCE:.0%} is a cast. Attach it to the weights it was trained on."
                )


@torch.no_grad()
def _samples(backbone: Backbone) -> dict[str, list[float]]:
    embedding = backbone.model.get_input_embeddings().weight
    first: Any = backbone.layers[0]
    decoder: Any = backbone.decoder
    tensors: dict[str, Tensor] = {
        "first norm": first.input_layernorm.weight,
        "final norm": decoder.norm.weight,
    }
    if embedding.numel():
        rows = torch.arange(1, 5, device=embedding.device) * len(embedding) // 6
        tensors["embedding"] = embedding[rows, :8]
    return {
        name: [round(value, 6) for value in tensor.flatten()[:32].float().tolist()]
        for name, tensor in tensors.items()
        if tensor.numel()
    }
