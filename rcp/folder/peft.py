"""A plug-in's low-rank adapters as a stock PEFT folder, for programs that know PEFT only."""

import json
from pathlib import Path

from safetensors.torch import save_file

from rcp.plugin.lora import Lora


def save_peft_folder(lora: Lora, base: str, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` into the new ``folder``.

    ``PeftModel.from_pretrained(model, folder)`` then computes what the plug-in's adapters add;
    the plug-in itself carries them too, and must then be attached without them.
    """
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.spec.rank,
        "lora_alpha": lora.spec.alpha,
        # full names: short ones would match modules of the vision tower, too
        "target_modules": sorted(lora.spec.modules),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: value.contiguous().cpu() for name, value in lora.peft_tensors().items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
