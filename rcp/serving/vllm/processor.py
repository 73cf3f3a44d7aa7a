"""The processor's side: as many placeholders as will be kept, and a key that says of what."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageEmbeddingItems

from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.serving.vllm.budgets import ARGUMENT
from rcp.serving.vllm.request import KEY, SIZE, ChoiceKey
from rcp.serving.vllm.settings import Settings


class PrunedProcessor:
    """Mixed into a family's processor, in front of it, which says what an image's size makes of
    it, and by which token id a prompt has its ``placeholder``."""

    info: Any

    @property
    def placeholder(self) -> int:
        return self.info.get_hf_config().image_token_index

    def full_tokens(self, width: int, height: int) -> int:
        """How many tokens an image of so many pixels has."""
        raise NotImplementedError

    def lengthened(self, made: Any, sizes: Sequence[int]) -> int:
        """One more than the highest position of the prompt ``made``, whose images had ``sizes``
        tokens."""
        images = made["mm_placeholders"].get("image", [])
        gone = sum(size - image.length for size, image in zip(sizes, images))
        return len(made["prompt_token_ids"]) + gone

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        if isinstance(inputs.mm_data_items.get("image"), ImageEmbeddingItems):
            raise UserError(
                "Ready-made image embeddings cannot be pruned: what a method reads of the vision "
                "tower is not among them. Send the image itself."
            )
        sizes = self._sizes(inputs.mm_data_items)
        arguments = self._key(inputs, sizes).arguments()
        made: Any = super().apply(  # type: ignore[misc]
            replace(inputs, hf_processor_mm_kwargs=arguments), timing_ctx
        )
        self._refuse_too_long(made, sizes)
        return made

    def _sizes(self, items: Any) -> list[int]:
        if not items.get_all_counts().get("image", 0):
            return []
        images = items["image"]
        sizes = [images.get_image_size(at) for at in range(len(images))]
        return [self.full_tokens(size.width, size.height) for size in sizes]

    def _key(self, inputs: Any, sizes: Sequence[int]) -> ChoiceKey:
        settings = self._settings
        if ARGUMENT in (self.info.ctx.get_mm_config().mm_processor_kwargs or {}):
            raise UserError(
                f"--mm-processor-kwargs gives {ARGUMENT}, which is for requests. Set the server's "
                f"own by `python -m rcp serve FOLDER --budget BUDGET`."
            )
        return ChoiceKey.of(
            inputs.hf_processor_mm_kwargs,
            settings.entry(),
            settings.fingerprint(),
            inputs.prompt,
            self.placeholder,
            sizes,
            settings.budget,
        )

    @property
    def _settings(self) -> Settings:
        return Settings.of(self.info.get_hf_config())

    def _refuse_too_long(self, made: Any, sizes: Sequence[int]) -> None:
        """Text behind an image stands where it would without pruning."""
        longest = self.info.ctx.model_config.max_model_len
        if self._settings.entry().spec.position_policy != "keep":
            return
        length = self.lengthened(made, sizes)
        if length > longest:
            raise UserError(
                f"Before pruning this prompt has {length} tokens, and what is left of it keeps its "
                f"positions; the model is served up to {longest}. Send fewer images, or serve it "
                f"with a larger --max-model-len."
            )

    # -- what the family's own is asked --------------------------------------------------------

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        key, others = ChoiceKey.taken(hf_kwargs)
        found: Any = super()._get_hf_mm_inputs(mm_items, others)  # type: ignore[misc]
        count = mm_items.get_all_counts().get("image", 0)
        if found.hf_data and count:
            found.passthrough_data[KEY] = [key.written()] * count
            found.passthrough_data[SIZE] = torch.tensor(self._sizes(mm_items))
        return found

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields: Any = super()._get_mm_fields_config(  # type: ignore[misc]
            hf_inputs, hf_processor_mm_kwargs
        )
        own = {name: MultiModalFieldConfig.batched("image") for name in (KEY, SIZE)}
        return {**fields, **own}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        key, others = ChoiceKey.taken(hf_processor_mm_kwargs)
        updates: Any = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, others, out_mm_kwargs
        )
        entry = self._settings.entry()
        return [replace(update, replacement=_Shorter(update.replacement, key, entry))
                for update in updates]


class _Shorter:
    """A family's placeholders of an image, one token repeated, as many as ``key`` lets ``entry``
    keep."""

    def __init__(self, full: Any, key: ChoiceKey, entry: Plugin) -> None:
        self.full = full
        self.key = key
        self.entry = entry

    def __call__(self, item: int) -> list[int]:
        placeholders = self.full(item)
        size = len(placeholders)
        return placeholders[: self.key.of_size(size, self.entry).count(size)]
