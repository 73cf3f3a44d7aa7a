#!/bin/sh
# Run the tests of models and invariants on another release of transformers or torch, in its own
# environment.
#   sh tests/second_environment.sh [requirement] [result file]
# The pins that depend on the release are left to pip; the other of the two is constraints.txt's.
set -eu
cd "$(dirname "$0")/.."
REQUIREMENT=${1:-transformers==5.17.*}
NAME=$(echo "$REQUIREMENT" | sed 's/[.*]*$//; s/==/_/' | tr . _)
RESULT=${2:-benchmarks/results/$NAME.txt}
VENV=runs/$NAME
OTHERS=$(grep -E '^(torch|transformers)==' constraints.txt | grep -v "^${REQUIREMENT%%=*}==")

[ -x "$VENV/bin/python" ] || python3 -m venv "$VENV"
"$VENV/bin/pip" install --quiet "$REQUIREMENT" "$OTHERS" pytest pillow safetensors hypothesis

{
    echo "command: sh tests/second_environment.sh '$REQUIREMENT'"
    echo "date: $(date -u +%Y-%m-%d)   commit: $(git rev-parse --short HEAD)"
    "$VENV/bin/python" -c 'import platform, torch, transformers
print(f"python {platform.python_version()}   torch {torch.__version__}   transformers {transformers.__version__}")'
    OMP_NUM_THREADS=1 "$VENV/bin/python" -m pytest -q -p no:cacheprovider --disable-warnings \
        tests/test_families*.py tests/test_parity*.py tests/test_masking.py tests/test_tokens.py \
        2>&1 | tail -n 15 | sed "s|$PWD/||g"
} | tee "$RESULT.part"
mv "$RESULT.part" "$RESULT"
