#!/bin/sh
# The environment of `make test-harness`, apart from ours: lmms-eval brings a hundred packages along.
#   sh tests/harness_env.sh [folder]
set -eu
cd "$(dirname "$0")/.."
VENV=${1:-runs/harness-env}

[ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
# filelock 4 has no module `_api`, which this lmms-eval imports
"$VENV/bin/pip" install --quiet --constraint constraints.txt --editable ".[eval]" \
    lmms-eval==0.7.3 filelock==3.19.1 pytest
# An index may hold a torchvision that was built for another torch, and then every import of image
# code in transformers fails (`operator torchvision::nms does not exist`). Nothing here needs it.
"$VENV/bin/pip" uninstall --quiet --yes torchvision
