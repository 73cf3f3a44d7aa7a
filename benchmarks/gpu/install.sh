#!/usr/bin/env bash
# Install what lies beside this script into a folder, without an index, and print the PYTHONPATH:
#   eval "$(bash runs/gpu-bundle/install.sh)" && make gpu
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:-$here/site}
install=("${PYTHON:-python3}" -m pip install --quiet --no-index --no-deps --upgrade --target "$target")
"${install[@]}" "$here"/*.whl >&2
# what DeepSpeed's own setup imports is in the wheels and on the machine
PYTHONPATH=$target "${install[@]}" --no-build-isolation "$here"/*.tar.gz >&2
echo "export PYTHONPATH=$target"
