"""The vision side of a model: which facts about encoded images it can give."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from rcp.backbones.patch_entropy import entropy_shares

OF_ATTENTION = ("vision_cls_attention", "encoder_keys", "encoder_attention", "encoder_attended")
"""Facts that the tower's :attr:`Tower.attention` tells, of its input."""

VISION_FACTS = ("encoder_tokens", "projector", *OF_ATTENTION, "patch_entropy", "encoder_levels")

SURVIVORS = "tower_survivors"
"""What a tower tells that drops patches itself: which of them it has kept."""

LEVELS = (13 / 24, 18 / 24, 23 / 24)
"""How deep in the tower ``encoder_levels`` are (Vision Remember, arXiv 2506.03928 [paper])."""

CLIP = "clip_vision_model"


class Tower:
    """Facts about the vision tower and projector of one ``model``.

    Its projector maps each row it is given to one visual token. ``crops``: the model leaves the
    tower's first row, [CLS], out. ``fold``: where it joins patches before it projects, facts
    (images, patches, F) → (images, rows, F) of the joined. ``each_patch``: the visual tokens of an
    image are its patches, in their order. Modules are called, never their weights read, and no
    layer is switched to eager attention.
    """

    def __init__(
        self,
        model: Any,
        *,
        crops: bool,
        fold: Callable[[Tensor], Tensor] | None = None,
        each_patch: bool = False,
    ) -> None:
        self.model = model
        self.crops = crops
        self.fold = fold
        self.each_patch = each_patch

    def missing(self, fact: str) -> str | None:
        """Why ``fact`` of :data:`VISION_FACTS` cannot be had, to follow the model's name."""
        if fact in OF_ATTENTION and self.attention is None:
            return "has a vision tower whose queries and keys are not at hand"
        if fact == "encoder_levels" and not self.blocks:
            return "has a vision tower whose blocks are not at hand"
        if fact == "vision_cls_attention" and not self.has_cls:
            return "has a vision tower without a [CLS] token"
        if fact == "patch_entropy" and self.attention is None:
            return "has a vision tower whose rows are not known to be patches"
        return None

    def stays_whole(self, blocks: Sequence[int]) -> str | None:
        """Why no patch can go in ``blocks``, to follow the model's name; None where they can."""
        kind = self.model.config.vision_config.model_type
        if not self.each_patch:
            return "does not make one visual token of each row of one vision tower"
        if kind != CLIP:
            return f"has a vision tower of type '{kind}', and patches go in one of '{CLIP}' alone"
        if not self.crops:
            return "projects its vision tower's [CLS], too (vision_feature_select_strategy 'full')"
        if not isinstance(self.model.config.vision_feature_layer, int):
            return f"projects several layers {self.model.config.vision_feature_layer} of its tower"
        if beyond := [block for block in blocks if block >= self.deepest]:
            return (
                f"projects what is behind {self.deepest} blocks of its vision tower, so that block "
                f"{beyond[0]}, counted from 0, comes too late"
            )
        return None

    @property
    def projector(self) -> nn.Module:
        """Encoder rows (..., C) → visual tokens (..., D)."""
        return self.model.base_model.multi_modal_projector

    @property
    def encoder(self) -> Any:
        """The tower, without the wrapper some versions put around it."""
        tower = self.model.base_model.vision_tower
        return getattr(tower, "vision_model", tower)

    @property
    def has_cls(self) -> bool:
        embeddings = getattr(self.encoder, "embeddings", None)
        return any(hasattr(embeddings, name) for name in ("class_embedding", "cls_token"))

    @property
    def blocks(self) -> Sequence[Any]:
        """The tower's transformer layers, none if it is unlike ours."""
        encoder = getattr(self.encoder, "encoder", None)
        return getattr(encoder, "layers", None) or getattr(encoder, "layer", None) or ()

    @property
    def deepest(self) -> int:
        """How many of :attr:`blocks` have run where the output is taken that is projected.

        Of several outputs it is the deepest. [ours]
        """
        chosen = getattr(self.model.config, "vision_feature_layer", None)
        outputs = [chosen] if isinstance(chosen, int) else list(chosen or [-1])
        # output 0 is the embeddings', output i layer i - 1's
        return max(output % (len(self.blocks) + 1) for output in outputs)

    @property
    def levels(self) -> list[int]:
        """The blocks whose inputs make ``encoder_levels``, none behind what is projected."""
        last = min(self.deepest, len(self.blocks) - 1)
        return sorted({min(round(share * len(self.blocks)), last) for share in LEVELS})

    @property
    def level_features(self) -> int:
        """Numbers a row of ``encoder_levels`` has."""
        return len(self.levels) * self.model.config.vision_config.hidden_size

    @property
    def attention(self) -> Any:
        """The attention module of the layer whose output is projected; None if it is unlike ours.
        """
        if not self.blocks:
            return None
        layer = self.blocks[max(self.deepest, 1) - 1]
        found = getattr(layer, "self_attn", None) or getattr(layer, "attention", None)
        return found if hasattr(found, "q_proj") and hasattr(found, "k_proj") else None

    @property
    def of_attention(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """What makes each fact of :data:`OF_ATTENTION` of the input of :attr:`attention`."""
        measures = (self.cls_attention, self.keys, self.received, self.attended)
        return dict(zip(OF_ATTENTION, measures))

    def cls_attention(self, hidden: Tensor) -> Tensor:
        """Attention of [CLS] to the rows that are projected, mean over heads: (images, rows, 1).

        ``hidden`` (images, 1 + patches, C) is the input of :attr:`attention`; fp32.
        """
        query, key = self._heads("q", hidden[:, :1]), self._heads("k", hidden)
        return self.rows(mean_attention(query, key).mT)

    def from_cls(self, attention: Any, query: Tensor, key: Tensor) -> Tensor:
        """Attention of [CLS] to all rows, mean over heads: (images, rows) fp32.

        ``query`` and ``key`` (images, rows, C) are what ``attention``, of any of its blocks,
        projects.
        """
        heads = [_by_head(attention, rows) for rows in (query[:, :1], key)]
        return mean_attention(*heads)[:, 0]

    def keys(self, hidden: Tensor) -> Tensor:
        """Keys of the rows that are projected, mean over heads: (images, rows, d)."""
        return self.rows(self._heads("k", hidden).mean(1))

    def received(self, hidden: Tensor) -> Tensor:
        """Attention to the rows that are projected from each of the tower's M patches, mean over
        heads: (images, rows, M) fp32."""
        return self.rows(self._among_patches(hidden))

    def attended(self, hidden: Tensor) -> Tensor:
        """For each row that is projected alike, how much attention the M patches of its image get,
        over their mean: (images, rows, M) fp32."""
        got = self._among_patches(hidden)[:, int(self.crops):].sum(2)[:, None]
        shares = got / got.mean(2, keepdim=True)
        return self.rows(shares.expand(-1, hidden.shape[1], -1))

    def entropy(self, pixels: Tensor) -> Tensor:
        """What patches show: :func:`entropy_shares` of the rows projected, (images, rows, 1)."""
        side = self.model.config.vision_config.patch_size
        shares = entropy_shares(pixels, side if isinstance(side, int) else side[0])
        return self.rows(functional.pad(shares, (0, 0, int(self.has_cls), 0)))

    def _among_patches(self, hidden: Tensor) -> Tensor:
        """(images, all rows of the tower, M): from each patch, a row that is not cropped."""
        query, key = (self._heads(which, hidden).float() for which in ("q", "k"))
        weights = (query[:, :, int(self.crops):] @ key.mT) * query.shape[-1] ** -0.5
        return weights.softmax(-1).mean(1).mT

    def _heads(self, which: str, hidden: Tensor) -> Tensor:
        attention = self.attention
        projected = getattr(attention, f"{which}_proj")(hidden)
        norm = getattr(attention, f"{which}_norm", None)
        if norm is not None:
            projected = norm(projected)
        return _by_head(attention, projected)

    def rows(self, facts: Tensor) -> Tensor:
        """Facts (images, rows of the tower, F) of the rows that are projected."""
        facts = facts[:, 1:] if self.crops else facts
        # pixel shuffling takes another view of them
        return facts if self.fold is None else self.fold(facts.contiguous())


def _by_head(attention: Any, projected: Tensor) -> Tensor:
    """(B, R, H * d) → (B, H, R, d)."""
    return projected.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def mean_attention(query: Tensor, key: Tensor) -> Tensor:
    """Attention of ``query`` (B, H, Q, d) to ``key`` (B, H, R, d), mean over heads: (B, Q, R)."""
    weights = query.float() @ key.float().mT * query.shape[-1] ** -0.5
    return weights.softmax(-1).mean(1)
