"""What transformers answers with the same plug-in attached."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.serving.cases import Request
from rcp import KeepPlan, Plugin, attach, plan_of
from rcp.attaching.cache_names import cache_in
from rcp.serving.vllm.budgets import at_share, share_of


class Reference:
    """``model`` and ``processor`` of transformers; ``entry`` is the plug-in's entry stage."""

    def __init__(self, model: Any, processor: Any, entry: Plugin) -> None:
        self.model = model
        self.processor = processor
        self.entry = entry
        config = model.config
        self.placed = hasattr(config, "vision_start_token_id")  # Qwen's, of images of any size
        self.placeholder = config.image_token_id if self.placed else config.image_token_index

    @torch.no_grad()
    def answer(self, request: Request, length: int) -> list[int]:
        """Token ids of the greedy answer, at most ``length``."""
        inputs = self._inputs(request)
        sizes = self._sizes(request)
        shares = [share_of(request.budget, self.entry, size) for size in sizes]
        attached: Any = nullcontext()
        if shares and None not in shares:
            plugins = [at_share(self.entry, share) for share in shares]
            plan = self._each_alone(inputs, plugins, sizes) if len(shares) > 1 else None
            attached = attach(self.model, plugins[0], plan=plan)
        elif request.images and self.entry.lora is not None:
            attached = attach(self.model, self._adapters_alone())
        with attached:
            made = self.model.generate(**inputs, max_new_tokens=length, do_sample=False)
        return made[0, inputs["input_ids"].shape[1] :].tolist()

    def _adapters_alone(self) -> Plugin:
        """What is left of the entry stage where a request switches pruning off."""
        spec = replace(self.entry.spec, stages=[])
        plugin = Plugin(spec, self.entry.hidden_size, self.entry.num_layers)
        plugin.lora, plugin.base = self.entry.lora, self.entry.base
        return plugin.eval()

    def _inputs(self, request: Request) -> Any:
        images = request.opened() or None
        return self.processor(images=images, text=[request.prompt], return_tensors="pt")

    def _sizes(self, request: Request) -> list[int]:
        """How many tokens each image has."""
        alone = [self.processor(images=[image], text=["<image>"]) for image in request.opened()]
        return [one["input_ids"][0].count(self.placeholder) for one in alone]

    def _apart(self, inputs: Any) -> list[dict[str, Tensor]]:
        """What the encoder takes, image by image."""
        if not self.placed:
            by_image = [name for name in ("pixel_values", "image_sizes") if name in inputs]
            return [{name: inputs[name][at : at + 1] for name in by_image}
                    for at in range(len(inputs["pixel_values"]))]
        grids = inputs["image_grid_thw"]
        pixels = inputs["pixel_values"].split(grids.prod(1).tolist())
        return [{"pixel_values": own, "image_grid_thw": grid[None]}
                for own, grid in zip(pixels, grids)]

    def _each_alone(
        self, inputs: Any, plugins: Sequence[Plugin], sizes: Sequence[int]
    ) -> KeepPlan:
        """Of several images each keeps what it keeps as the only one, in the last one's place."""
        ids = inputs["input_ids"][0]
        image = ids == self.placeholder
        columns = image.nonzero()[:, 0].split(list(sizes))
        alive = ~image
        for at, own in enumerate(self._apart(inputs)):
            last = columns[-1][0]
            text = [ids[:last][~image[:last]], ids[last:][~image[last:]]]
            shown = torch.full((sizes[at],), self.placeholder)
            alone = torch.cat([text[0], shown, text[1]])[None]
            alive[columns[at]] = self._kept(alone, own, plugins[at])
        return KeepPlan(plugins[0].schedule.layers, alive[None, None], image[None])

    def _kept(self, ids: Tensor, shown: dict[str, Tensor], plugin: Plugin) -> Tensor:
        if self.placed:  # where positions are places, what shows images is told
            shown = shown | {"mm_token_type_ids": (ids == self.placeholder).long()}
        with attach(self.model, plugin):
            cache = cache_in(self.model(input_ids=ids, use_cache=True, **shown))
        return plan_of(cache).alive[0, 0][ids[0] == self.placeholder]
