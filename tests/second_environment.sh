#!/bin/sh
# Run tests on other releases of transformers, PEFT and torch, and note the outcome in a table.
#   sh tests/second_environment.sh [requirement ...]
# Each requirement takes the place of the one before in one environment; what it does not decide is as
# constraints.txt has it. One that was run before gets a new row. Of PEFT the adapters are tried, of
# the others models and invariants, too.
set -eu
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || set -- transformers==5.17.* transformers==5.18.* transformers==5.19.* \
    transformers==5.20.* transformers==5.21.* transformers==5.22.* transformers==5.23.* \
    transformers==5.24.* peft==0.17.* peft==0.18.* peft==0.19.* peft==0.20.* peft==0.21.* \
    torch==2.11.* torch==2.12.* torch==2.13.* torch==2.14.*
TABLE=benchmarks/results/releases.md
FOLDER=runs/releases
PYTHON=$FOLDER/venv/bin/python

mkdir -p "$FOLDER"
[ -x "$PYTHON" ] || python3 -m venv "$FOLDER/venv"
COMMIT=$(git rev-parse --short HEAD)
for REQUIREMENT; do
    PACKAGE=${REQUIREMENT%%=*}
    OTHERS=$(grep -E '^(torch|transformers|peft)==' constraints.txt | grep -v "^$PACKAGE==")
    TESTS="tests/test_lora.py tests/test_wrapped_models.py"
    [ "$PACKAGE" = peft ] || TESTS="$TESTS $(echo tests/test_families*.py tests/test_parity*.py) \
        tests/test_masking.py tests/test_tokens.py"
    LOG=$FOLDER/$(echo "$REQUIREMENT" | sed 's/[.*]*$//; s/==/_/').log
    "$PYTHON" -m pip install --quiet "$REQUIREMENT" $OTHERS pytest pillow safetensors hypothesis scipy \
        PyYAML datasets torchmetrics 'pytorch-lightning<3' 'jsonargparse[signatures]>=4.53,<5'
    OMP_NUM_THREADS=1 "$PYTHON" -m pytest -q -p no:cacheprovider --disable-warnings -rf \
        $TESTS > "$LOG" 2>&1 || true
    VERSIONS=$("$PYTHON" -c 'from importlib.metadata import version  # it may not import
print(version("transformers"), version("peft"), version("torch"), sep=" | ")')
    OUTCOME=$(tail -n 1 "$LOG" | sed 's/, [0-9]* deselected//; s/, [0-9]* warnings*//; s/ in .*//')
    ROW="| $REQUIREMENT | $VERSIONS | $OUTCOME | $COMMIT |"
    {
        echo "# Releases that the tests were run on"
        echo
        echo "By \`sh tests/second_environment.sh\`, in fp32 on a CPU; $("$PYTHON" --version)."
        echo "What fails are adapters that a release of transformers will not load or add by an older"
        echo "PEFT: 5.23 takes it from 0.20 on, 5.24 from 0.22 on, which is not out yet."
        echo
        echo "| asked for | transformers | peft | torch | outcome | commit |"
        echo "|---|---|---|---|---|---|"
        { sed -n '/^| [a-z]*==/p' "$TABLE" 2>/dev/null | sed "\#| $REQUIREMENT |#d"; echo "$ROW"; } \
            | sort -V
    } > "$TABLE.part"
    mv "$TABLE.part" "$TABLE"
    echo "$ROW"
done
