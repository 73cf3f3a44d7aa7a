"""The model card of an exported plug-in."""

import json
from typing import Any


def model_card(description: dict[str, Any]) -> str:
    """Markdown for people who find the folder: what it is, what it fits, how to attach it."""
    base = description["base"] or {"name_or_path": "any model of these sizes", "architecture": "-"}
    spec = description["plugin"]
    stages = "\n".join(
        f"| {stage['layer']} | {stage['ratio']:.2%} | {stage['method']} |"
        for stage in spec["stages"]
    )
    repair = spec["repair"]
    repaired = f"`{repair['method']}` at layers {repair['layers']}" if repair else "none"
    lora = spec.get("lora")
    adapted = f"rank {lora['rank']} on {', '.join(lora['targets'])}" if lora else "none"
    training = json.dumps(description["training"], indent=2)
    return f"""---
library_name: rcp
tags: [visual-token-pruning]
---
# Visual-token pruning plug-in

For `{base['name_or_path']}` ({base['architecture']}, width {description['hidden_size']},
{description['num_layers']} decoder layers). The base model is not contained and stays as it is.

On average over the decoder's layers {description['budget']['mean_ratio']:.2%} of the visual
tokens are kept.

| from layer | visual tokens alive | pruner |
|---|---|---|
{stages}

Selection: {spec['selection']}; positions: {spec['position_policy']}; repair: {repaired};
low-rank adapters: {adapted}{", in `lora/` also as a stock PEFT adapter" if lora else ""}.

```python
import rcp
model, processor = rcp.load("this/folder")           # base model with the plug-in attached
# or, on a model you have: rcp.attach(model, rcp.load_plugin("this/folder"), "drop")
```

Training:

```json
{training}
```
"""
