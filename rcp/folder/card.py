"""The model card of an exported plug-in."""

import json
from typing import Any

from huggingface_hub import ModelCardData

from rcp.folder.hub import is_hub_id
from rcp.folder.measured import Measured, table


def model_card(
    description: dict[str, Any], name: str = "this/folder", measured: list[Measured] | None = None
) -> str:
    """Markdown for people who find the folder: what it is, what it fits, how to attach it.

    ``name``: what it is loaded by; ``measured``: the rows of its evaluation.
    """
    base = description["base"] or {"name_or_path": "any model of these sizes", "architecture": "-"}
    spec = description["plugin"]
    stages = "\n".join(
        f"| {stage['layer']} | {stage['ratio']:.2%} | {stage['method']} |"
        for stage in spec["stages"]
    )
    tower = spec.get("tower")
    shortened = (
        f"\nInside the vision tower the blocks {tower['blocks']} keep {tower['keep']:.2%} of their "
        f"patches each,\nwhich enter the decoder.\n" if tower else ""
    )
    repair = spec["repair"]
    repaired = f"`{repair['method']}` at layers {repair['layers']}" if repair else "none"
    lora = spec.get("lora")
    adapted = f"rank {lora['rank']} on {', '.join(lora['targets'])}" if lora else "none"
    training = json.dumps(description["training"], indent=2)
    return f"""---
{_metadata(description, base['name_or_path'])}
---
# Visual-token pruning plug-in

For `{base['name_or_path']}` ({base['architecture']}, width {description['hidden_size']},
{description['num_layers']} decoder layers). The base model is not contained and stays as it is.

On average over the decoder's layers {description['budget']['mean_ratio']:.2%} of the visual
tokens are kept.
{shortened}
| from layer | visual tokens alive | pruner |
|---|---|---|
{stages}

Selection: {spec['selection']}; positions: {spec['position_policy']}; repair: {repaired};
low-rank adapters: {adapted}{", in `lora/` also as a stock PEFT adapter" if lora else ""}.

```python
import rcp
model, processor = rcp.load("{name}")  # base model with the plug-in attached
# or, on a model you have: rcp.attach(model, rcp.load_plugin("{name}"), "drop")
```
{_results(measured or [])}
Training:

```json
{training}
```
"""


def _metadata(description: dict[str, Any], base: str) -> str:
    """What the hub reads: YAML, without a base that no repository can be called."""
    methods = {stage["method"] for stage in description["plugin"]["stages"]}
    return ModelCardData(
        base_model=base if is_hub_id(base) else None,
        library_name="rcp",
        pipeline_tag="image-text-to-text",
        tags=["visual-token-pruning", *sorted(methods)],
    ).to_yaml()


def _results(measured: list[Measured]) -> str:
    if not measured:
        return ""
    return f"""
Measured by `evaluate.py` on {measured[0].n} questions, the tokens physically dropped; mean tokens
are over the decoder's layers, entering those that enter its first one:

{table(measured)}
"""
