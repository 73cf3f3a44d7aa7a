"""Which model a plug-in belongs to, and the refusal of any other."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from rcp.backbones import Backbone
from rcp.base_model.samples import EMBEDDINGS, Values, values_of, weights_of
from rcp.base_model.samples_of_before import values_of_before
from rcp.errors import UserError
from rcp.quoting import plain

CAST = 0.01
"""Relative; lets casts pass, and quantised bases, since norms and embeddings never are."""

ROUNDED = 0.25
"""Likewise of a matrix, which 4 bits change by about 0.1, and another one by 1 or more."""

SMALL = 1e-3
"""Mean size of values below which they are compared as if they had it: fp16 knows no 1e-9."""


@dataclass
class BaseIdentity:
    """Architecture, sizes and a few sampled values of every weight of a frozen base.

    ``samples`` are of norms, biases and embeddings, ``matrices`` of all else, both without what
    PEFT adapters on the base add; ``adapted`` with it, where there are any.
    """

    name_or_path: str
    architecture: str
    model_type: str
    hidden_size: int
    num_layers: int
    samples: Values = field(default_factory=dict)
    matrices: Values = field(default_factory=dict)
    adapted: Values = field(default_factory=dict)

    @classmethod
    def of(cls, backbone: Backbone) -> "BaseIdentity":
        """The identity of the model behind ``backbone``."""
        found = cls(**_sizes(backbone), name_or_path=str(backbone.config.name_or_path))
        weights = weights_of(backbone.model)
        values = values_of(weights)
        for weight in weights:
            bare, with_adapter = values[weight.name], weight.other_form()
            if with_adapter is not None:
                if getattr(weight.adapter, "merged", False):
                    bare, with_adapter = with_adapter, bare
                found.adapted[weight.name] = _short(with_adapter)
            kind = found.matrices if weight.is_matrix else found.samples
            kind[weight.name] = _short(bare)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def check(self, backbone: Backbone) -> None:
        """Raise ``UserError`` unless ``backbone`` is the model this identity was taken from.

        More or fewer tokens in its vocabulary change nothing, nor do adapters on it while they can
        be told from it.
        """
        for name, theirs in _sizes(backbone).items():
            mine = getattr(self, name)
            if mine != theirs:
                raise UserError(
                    f"This plug-in was made for another base: its {name} is {plain(mine)}, the "
                    f"model's is {plain(theirs)}. Attach it to "
                    f"{plain(self.name_or_path) or 'the model it names'}."
                )
        weights = {weight.name: weight for weight in weights_of(backbone.model)}
        values = values_of(weights.values()) | values_of_before(backbone, self.samples)
        for name in (*self.samples, *self.matrices):
            if name not in values:
                continue  # quantised, sharded or unknown to this release: nothing to compare
            allowed = CAST if name in self.samples else ROUNDED
            gap = self._gap(name, values[name])
            if gap > allowed and name in weights:
                other = weights[name].other_form()  # takes time, and is seldom needed
                gap = gap if other is None else min(gap, self._gap(name, other))
            self._refuse_gap(name, gap, allowed)

    def check_samples(self, values: Values) -> None:
        """Likewise where an engine holds the model, of whose norms, biases and embeddings
        ``values`` are: those that are among the samples are compared."""
        for name in values.keys() & self.samples.keys():
            self._refuse_gap(name, self._gap(name, values[name]), CAST)

    def _refuse_gap(self, name: str, gap: float, allowed: float) -> None:
        if gap > allowed:
            raise UserError(
                f"This plug-in was made for another base: the model's {name} values differ by "
                f"{gap:.1%} from those of {plain(self.name_or_path) or 'its base'}, at most "
                f"{allowed:.0%} is a cast or rounding. Attach it to the weights it was trained "
                f"on; of an adapter, before it is merged into them for good."
            )

    def _gap(self, name: str, found: list[float]) -> float:
        """How far ``found`` is from what is known of ``name``, with or without adapters."""
        known = [kind[name] for kind in (self.samples, self.matrices, self.adapted) if name in kind]
        return min(_difference(name, mine, found) for mine in known)


def _difference(name: str, mine: list[float], theirs: list[float]) -> float:
    """Relative, of embeddings on the rows that both have; infinite if it is no number."""
    if name.startswith(EMBEDDINGS) and mine:
        common = min(len(mine), len(theirs))
        mine, theirs = mine[:common], theirs[:common]
    if len(mine) != len(theirs) or not mine:
        raise UserError(
            f"This plug-in's description of its base is damaged: it holds {len(mine)} {name} "
            f"values, the model has {len(theirs)}. Export the plug-in again."
        )
    size = max(math.hypot(*mine), SMALL * len(mine) ** 0.5)
    gap = math.dist(mine, theirs) / size
    return math.inf if math.isnan(gap) else gap


def _sizes(backbone: Backbone) -> dict[str, Any]:
    return {
        "architecture": type(backbone.model).__name__,
        "model_type": backbone.config.model_type,
        "hidden_size": backbone.hidden_size,
        "num_layers": len(backbone.layers),
    }


def _short(values: list[float]) -> list[float]:
    """With as many digits as a comparison needs."""
    return [float(f"{value:.6g}") for value in values]
