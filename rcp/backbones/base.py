"""The facts a family must supply, with the defaults that hold for nearly all of them."""

import inspect
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from rcp.backbones.placement import device_of, dtype_of
from rcp.backbones.places import Places
from rcp.backbones.refused import REFUSED
from rcp.backbones.tower import Tower
from rcp.backbones.unwrapping import unwrapped
from rcp.errors import UserError
from rcp.registry import Registry

Arguments = dict[str, Any]
Rope = tuple[Tensor, Tensor]

BACKBONES = Registry("model family", "rcp.backbones")

ATTENTION_TYPES = ("full_attention", "sliding_attention")


class Backbone:
    """Facts about one family, bound to one ``model``. Knows nothing of pruning.

    A subclass names its ``model_types`` (``config.model_type``) and overrides what differs.
    Modules are called, never their weights read: under ZeRO-3 a parameter is empty outside its
    own module's ``forward``. ``title``, ``limits`` and ``videos`` (whether it takes them) are what
    the table of families shows; ``untrainable`` why no plug-in can be trained on it, to follow the
    model's name; ``only_before``, likewise, why tokens can be dropped before its decoder alone;
    ``bidirectional`` says that prompt rows may attend to later ones; ``repairable`` that a layer's
    output is one (B, T, D), to which repair can add; ``by_row`` names what the decoder is given
    beside embeddings that has a row for each token, (B, T, ...).
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    title: ClassVar[str] = ""
    limits: ClassVar[str] = ""
    videos: ClassVar[bool] = False
    untrainable: ClassVar[str] = ""
    only_before: ClassVar[str] = ""
    bidirectional: ClassVar[bool] = False
    repairable: ClassVar[bool] = True
    by_row: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        for model_type in cls.model_types:
            BACKBONES.register(model_type, cls)

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        self.text_config = model.config.get_text_config()
        self._refuse_layer_types()

    @cached_property
    def decoder(self) -> Any:
        """The module that owns the decoder layers; a model searches for it anew each time."""
        return self.model.get_decoder()

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers

    @property
    def hidden_size(self) -> int:
        return self.text_config.hidden_size

    @property
    def attention(self) -> str:
        """The attention backend of the decoder: "sdpa", "eager", "flash_attention_2", ..."""
        return self.text_config._attn_implementation

    @property
    def visual_tokens(self) -> int | None:
        """Visual tokens of one image where that number is fixed, else None."""
        return None

    def device(self, layer: int) -> torch.device:
        """Where ``layer`` computes."""
        return device_of(self.layers[layer])

    def dtype(self, layer: int) -> torch.dtype | None:
        """The precision of ``layer``'s activations, None where no tensor of it tells.

        Asked is its norm, which is never quantised: its matrices may be kept in 8 bits or 4.
        """
        return dtype_of(self.norm(layer), self.layers[layer])

    def window(self, layer: int) -> int | None:
        """Sliding window of ``layer`` in tokens, None for full attention."""
        types = getattr(self.text_config, "layer_types", None)
        if types is not None and types[layer] != "sliding_attention":
            return None
        return getattr(self.text_config, "sliding_window", None)

    @property
    def takes_shorter_prompts(self) -> bool:
        """Whether rows left out of the decoder's input are gone for all of it, and for nothing
        else: no window counts them, no image sees itself both ways, and the first layer's input is
        what the decoder was given."""
        scale = getattr(self.text_config, "embedding_multiplier", 1.0)
        whole = not any(self.windows) and not self.bidirectional and not self.added_layers
        return whole and scale == 1.0

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """:meth:`window` of every layer; a config looks its values up too slowly for each step."""
        return tuple(self.window(layer) for layer in range(len(self.layers)))

    def image_rows(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """(B, T) bool: which columns hold image features, found as the host finds them."""
        found = [getattr(self.config, name, None) for name in ("image_token_id", "video_token_id")]
        tokens = [token for token in found if token is not None]
        if input_ids is not None:
            return torch.stack([input_ids == token for token in tokens]).any(0)
        assert inputs_embeds is not None
        ids = torch.tensor(tokens, device=inputs_embeds.device)
        placeholders = self.model.get_input_embeddings()(ids).to(inputs_embeds)
        return torch.stack([(inputs_embeds == row).all(-1) for row in placeholders]).any(0)

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places | None:
        """Which image each visual column belongs to, and its row and column there.

        ``image`` (B, T) bool; ``embeds`` (B, T, D) and ``positions`` (axes, B, T) are what the
        decoder is given. None stands for the default: a run of visual columns is an image, and a
        square one if its length allows.
        """
        return None

    def frames(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Tensor | None:
        """The frame of each visual column in its video, (B, T) long; arguments as of
        :meth:`places`. None: whatever counts as an image is one frame."""
        return None

    @property
    def tower(self) -> Tower | None:
        """The vision side; None where no row of its output belongs to one visual token alone."""
        return None

    def packed(self, facts: Tensor, call: Arguments) -> Tensor:
        """``facts`` (tiles, rows, F) in the order of the visual tokens: (tokens, F).

        ``call`` holds the arguments of the model's ``get_image_features``.
        """
        return facts.flatten(0, -2)

    def check_fact(self, fact: str) -> None:
        """Raise ``UserError`` if the vision side cannot give ``fact``, saying why."""
        reason = "joins patches inside its projector, or hides its vision tower"
        if self.tower is not None:
            reason = self.tower.missing(fact) or ""
        if reason:
            raise UserError(
                f"{type(self.model).__name__} {reason}, so there is no '{fact}' for each visual "
                f"token. Choose a method that does not need it: `python -m rcp pruners` lists what "
                f"each needs."
            )

    @property
    def added_layers(self) -> int:
        """To how many of the first layers' outputs the decoder adds: see :meth:`take_additions`."""
        return 0

    def with_all_rows(self, arguments: Arguments) -> Arguments:
        """The decoder's ``arguments`` without what would have it leave rows out by itself."""
        return arguments

    def take_additions(self, arguments: Arguments) -> tuple[Arguments, list[Tensor]]:
        """Take out of the decoder's ``arguments`` what it would add to rows between layers.

        Returns the arguments left and one (B, T, D) for each of the first layers' outputs.
        """
        return arguments, []

    def attends(self, layer: int) -> bool:
        """Whether ``layer`` has an attention, of which :meth:`qk` makes queries and keys."""
        return hasattr(self.layers[layer], "self_attn")

    @property
    def cached(self) -> tuple[int | None, ...]:
        """Of every layer, beyond how many tokens its cache grows no longer: None for never."""
        return self.windows

    def flops_beside(self, layer: int) -> int:
        """FLOPs a row that ``layer`` takes beside its two :meth:`blocks`."""
        return 0

    def blocks(self, layer: int) -> tuple[nn.Module, nn.Module]:
        """The two modules of ``layer`` whose outputs are added to the residual stream."""
        decoder_layer: Any = self.layers[layer]
        return decoder_layer.self_attn, decoder_layer.mlp

    def rope(self, hidden: Tensor, positions: Tensor) -> Rope:
        """(cos, sin) of ``positions`` (B, T), or (axes, B, T) with M-RoPE, as the decoder does."""
        return self.decoder.rotary_emb(hidden, positions)

    def norm(self, layer: int) -> Any:
        """The norm of ``layer`` that comes first: of its input, where it has one."""
        decoder_layer: Any = self.layers[layer]
        return decoder_layer.input_layernorm

    def input_norm(self, layer: int, hidden: Tensor) -> Tensor:
        """``hidden`` (B, T, D) as the attention of ``layer`` is given it."""
        return self.norm(layer)(hidden)

    def qk(
        self,
        layer: int,
        question: Tensor,
        rows: Tensor,
        question_rope: Rope,
        rows_rope: Rope,
    ) -> tuple[Tensor, Tensor]:
        """Rotated queries of ``question`` (B, Q, D) and keys of ``rows`` (B, R, D).

        Both are normed inputs of ``layer``; each rope is the (cos, sin) of those rows, (B, ., d).
        Returns (B, H, Q, d) and (B, H_kv, R, d), equal to what the layer's attention computes.
        """
        attention = self._attention(layer)
        query, key = self._heads(attention, "q", question), self._heads(attention, "k", rows)
        query, _ = self.rotated(layer, query, query, question_rope)
        return query, self.rotated(layer, key, key, rows_rope)[1]

    def qk_of_run(
        self, layer: int, run: range, rows: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        """:meth:`qk` where the question is the ``run`` of ``rows`` (B, R, D), in fewer operations:
        queries are turned among zeros, together with the keys."""
        attention = self._attention(layer)
        query = self._heads(attention, "q", rows[:, run.start : run.stop])
        key = self._heads(attention, "k", rows)
        around = (0, 0, run.start, rows.shape[1] - run.stop)
        query, key = self.rotated(layer, functional.pad(query, around), key, rope)
        return query[:, :, run.start : run.stop], key

    def rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        """``query`` and ``key`` (B, H, R, d), of one R, turned as the layer's attention does it."""
        return self.rotary(layer)(query, key, *rope)

    def rotary(self, layer: int) -> Any:
        """The family's own function, which lives beside the attention class of ``layer``."""
        module: Any = inspect.getmodule(type(self._attention(layer)))
        return module.apply_rotary_pos_emb

    def attention_logits(self, layer: int, query: Tensor, key: Tensor) -> Tensor:
        """Scaled (and soft-capped) products of :meth:`qk`: (B, H, Q, R), before the mask."""
        attention = self._attention(layer)
        if key.shape[1] < query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        logits = (query @ key.transpose(-1, -2)).float() * attention.scaling
        cap = getattr(self.text_config, "attn_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _attention(self, layer: int) -> Any:
        decoder_layer: Any = self.layers[layer]
        return decoder_layer.self_attn

    def _heads(self, attention: Any, which: str, rows: Tensor) -> Tensor:
        projected = getattr(attention, f"{which}_proj")(rows)
        projected = projected.unflatten(-1, (-1, attention.head_dim))
        norm = getattr(attention, f"{which}_norm", None)
        if norm is not None:
            projected = norm(projected)
        return projected.transpose(1, 2)

    def _refuse_layer_types(self) -> None:
        unknown = set(getattr(self.text_config, "layer_types", None) or ()) - set(ATTENTION_TYPES)
        if unknown:
            raise UserError(
                f"{type(self.model).__name__} has decoder layers of type "
                f"{', '.join(sorted(unknown))}, which keep a state that dropped tokens have "
                f"already entered. Only {' and '.join(ATTENTION_TYPES)} can lose tokens: choose a "
                f"model whose layers are all of these."
            )


def backbone_for(model: nn.Module) -> Backbone:
    """The facts of ``model``'s family, also where others have wrapped it.

    Raises ``UserError`` for a family we do not know.
    """
    model = unwrapped(model)
    model_type: Any = getattr(getattr(model, "config", None), "model_type", None)
    refuse_family(model_type, type(model).__name__)
    return BACKBONES.get(model_type)(model)


def refuse_family(model_type: Any, name: str) -> None:
    """Raise ``UserError`` unless ``model_type`` is a family we know; messages call it ``name``."""
    if model_type in REFUSED:
        raise UserError(
            f"{name} {REFUSED[model_type]}. `python -m rcp backbones` lists the "
            f"{len(BACKBONES.names())} types that are supported: choose a model of one of these."
        )
    if model_type not in BACKBONES.names():
        raise UserError(
            f"{name} (model type '{model_type}') is not a family this version "
            f"supports. `python -m rcp backbones` lists the {len(BACKBONES.names())} types that "
            f"are: load one of these, or add a file to rcp/backbones/ as CONTRIBUTING.md shows."
        )


def refuse_untrainable(model_type: Any, name: str) -> None:
    """Likewise unless plug-ins can be trained on it, too."""
    refuse_family(model_type, name)
    family = BACKBONES.get(model_type)
    if reason := family.untrainable:
        others = [other for other in BACKBONES.names() if not BACKBONES.get(other).untrainable]
        raise UserError(
            f"No plug-in can be trained on {name}: it {reason}. Methods that need no training work "
            f"on it, by evaluate.py --pruner. Families to train on: {', '.join(others)}."
        )
