"""What the entry point tells lmms-eval, which asks it at each start, whatever model is meant."""

from typing import Any


def manifest() -> Any:
    """Names of the two classes; imports neither, and not torch."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="rcp",
        simple_class_path="rcp.harness.adapter.RcpSimple",
        chat_class_path="rcp.harness.adapter.RcpChat",
    )
