"""The processor's side: as many placeholders as will be kept, and a key that says of what."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageEmbeddingItems

from rcp.errors import UserError
from rcp.serving.vllm.budgets import ARGUMENT
from rcp.serving.vllm.request import KEY, ChoiceKey
from rcp.serving.vllm.settings import Settings


class PrunedProcessor:
    """Mixed into a family's processor, in front of it.

    An image has ``tokens``, says the family, whatever its size.
    """

    info: Any

    @property
    def tokens(self) -> int:
        raise NotImplementedError

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        if isinstance(inputs.mm_data_items.get("image"), ImageEmbeddingItems):
            raise UserError(
                "Ready-made image embeddings cannot be pruned: what a method reads of the vision "
                "tower is not among them. Send the image itself."
            )
        arguments = self._key(inputs).arguments()
        made: Any = super().apply(  # type: ignore[misc]
            replace(inputs, hf_processor_mm_kwargs=arguments), timing_ctx
        )
        self._refuse_too_long(made)
        return made

    def _key(self, inputs: Any) -> ChoiceKey:
        config = self.info.get_hf_config()
        settings = Settings.of(config)
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
            config.image_token_index,
            self.tokens,
            settings.budget,
        )

    def _refuse_too_long(self, made: Any) -> None:
        """Text behind an image stands where it would without pruning."""
        config, longest = self.info.get_hf_config(), self.info.ctx.model_config.max_model_len
        if Settings.of(config).entry().spec.position_policy != "keep":
            return
        images = made["mm_placeholders"].get("image", [])
        gone = sum(self.tokens - image.length for image in images)
        length = len(made["prompt_token_ids"]) + gone
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
        return found

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        fields: Any = super()._get_mm_fields_config(  # type: ignore[misc]
            hf_inputs, hf_processor_mm_kwargs
        )
        return {**fields, KEY: MultiModalFieldConfig.batched("image")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        key, others = ChoiceKey.taken(hf_processor_mm_kwargs)
        updates: Any = super()._get_prompt_updates(  # type: ignore[misc]
            mm_items, others, out_mm_kwargs
        )
        return [replace(update, replacement=_Shorter(update.replacement, key))
                for update in updates]


class _Shorter:
    """A family's placeholders of an image, one token repeated, as many as ``key`` keeps."""

    def __init__(self, full: Any, key: ChoiceKey) -> None:
        self.full = full
        self.key = key

    def __call__(self, item: int) -> list[int]:
        placeholders = self.full(item)
        return placeholders[: self.key.count(len(placeholders))]
