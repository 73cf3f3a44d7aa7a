"""What transformers answers with the same plug-in attached."""

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
        self.placeholder = model.config.image_token_index
        self.tokens = model.config.image_seq_length

    @torch.no_grad()
    def answer(self, request: Request, length: int) -> list[int]:
        """Token ids of the greedy answer, at most ``length``."""
        inputs = self._inputs(request)
        share = share_of(request.budget, self.entry, self.tokens)
        attached: Any = nullcontext()
        if request.images and share is not None:
            plugin = at_share(self.entry, share)
            plan = self._each_alone(inputs, plugin) if len(request.images) > 1 else None
            attached = attach(self.model, plugin, plan=plan)
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
        return self.processor(images=images, text=request.prompt, return_tensors="pt")

    def _each_alone(self, inputs: Any, plugin: Plugin) -> KeepPlan:
        """Of several images each keeps what it keeps as the only one, in the last one's place."""
        ids = inputs["input_ids"][0]
        image = ids == self.placeholder
        columns = image.nonzero()[:, 0].split(self.tokens)
        alive = ~image
        for at, pixels in enumerate(inputs["pixel_values"]):
            rest = ~image
            rest[columns[-1]] = True
            kept = self._kept(ids[rest][None], pixels[None], plugin)
            alive[columns[at]] = kept
        return KeepPlan(plugin.schedule.layers, alive[None, None], image[None])

    def _kept(self, ids: Tensor, pixels: Tensor, plugin: Plugin) -> Tensor:
        with attach(self.model, plugin):
            cache = cache_in(self.model(input_ids=ids, pixel_values=pixels, use_cache=True))
        return plan_of(cache).alive[0, 0][ids[0] == self.placeholder]
