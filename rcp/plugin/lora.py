"""Low-rank adapters on the frozen decoder's linear layers, trained as a part of the plug-in."""

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from rcp.errors import UserError
from rcp.quoting import plain, quoted
from rcp.typed_values import of_type


@dataclass
class LoraSpec:
    """Low-rank adapters, arXiv 2106.09685.

    Args:
        rank: Inner width of each adapter.
        alpha: The adapter's output is scaled by alpha / rank.
        targets: Names of the linear modules in a decoder layer that get one, such as q_proj.
        layers: 0-based decoder layers that get them, or null for all.
        modules: In and out features by full module name; filled in for the model.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    layers: list[int] | None = None
    modules: dict[str, list[int]] = field(default_factory=dict)

    def for_layers(self, layers: nn.ModuleList, prefix: str) -> "LoraSpec":
        """With ``modules`` found in the decoder ``layers``, which the model calls ``prefix``.

        Raises ``UserError`` for a target or a layer that does not exist.
        """
        chosen = range(len(layers)) if self.layers is None else self.layers
        modules: dict[str, list[int]] = {}
        for index in chosen:
            if not 0 <= index < len(layers):
                raise UserError(
                    f"lora.layers names layer {index}, but the decoder has {len(layers)} layers: "
                    f"0 to {len(layers) - 1} are allowed."
                )
            linears = {
                name: module
                for name, module in layers[index].named_modules()
                if hasattr(module, "in_features") and name.split(".")[-1] != "base_layer"
            }
            for target in self.targets:
                found = [name for name in linears if name.split(".")[-1] == target]
                if not found:
                    known = sorted({name.split(".")[-1] for name in linears})
                    raise UserError(
                        f"lora.targets names {quoted(target)}, but decoder layer {index} has no "
                        f"linear module of that name. It has: {', '.join(known)}."
                    )
                for name in found:
                    sizes: Any = linears[name]
                    modules[f"{prefix}.{index}.{name}"] = [sizes.in_features, sizes.out_features]
        return replace(self, modules=modules)


class Lora(nn.Module):
    """One :class:`LowRank` for each of ``spec.modules``.

    Raises ``UserError`` for a spec that names no modules, or impossible ones.
    """

    def __init__(self, spec: LoraSpec) -> None:
        super().__init__()
        if spec.rank < 1:
            raise UserError(f"lora.rank is {spec.rank}: give a whole number of at least 1.")
        of_type(float, spec.alpha, "lora.alpha")  # a finite one
        if not spec.modules:
            raise UserError(
                "The low-rank adapters name no modules of a model. Make the plug-in by "
                "Plugin.for_model, which finds them."
            )
        for name, sizes in spec.modules.items():
            if not name or len(sizes) != 2 or min(sizes) < 1:
                raise UserError(
                    f"lora.modules gives {quoted(name)} the sizes {quoted(sizes)}, but a module's "
                    f"name and its in and out features are wanted. Make the plug-in by "
                    f"Plugin.for_model, which finds them."
                )
        self.spec = spec
        self.pairs = nn.ModuleDict()
        for name, sizes in spec.modules.items():
            try:
                pair = LowRank(sizes[0], sizes[1], spec.rank, spec.alpha)
                self.pairs[name.replace(".", "/")] = pair
            except (KeyError, TypeError, RuntimeError) as error:
                raise UserError(
                    f"A low-rank adapter of rank {spec.rank} for {quoted(name)} with the sizes "
                    f"{quoted(sizes)} cannot be made ({plain(error)}). Make the plug-in by "
                    f"Plugin.for_model, which finds the modules."
                ) from None

    def peft_tensors(self) -> dict[str, Tensor]:
        """The weights as a stock PEFT adapter names them."""
        letters = {"down": "A", "up": "B"}
        tensors = {}
        for name, weight in self.pairs.named_parameters():
            module, linear, _ = name.rsplit(".", 2)
            path = module.replace("/", ".")
            tensors[f"base_model.model.{path}.lora_{letters[linear]}.weight"] = weight.detach()
        return tensors


class LowRank(nn.Module):
    """``up(down(x)) · alpha / rank``; zero when fresh."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, rows: Tensor) -> Tensor:
        return self.up(self.down(rows.to(self.down.weight.dtype))) * self.scale
