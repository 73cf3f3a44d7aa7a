#!/bin/sh
# Open reports in a real browser: Debian's chromium, driven by playwright from a folder of its own.
#   apt-get install chromium
#   sh tests/browser_env.sh [more arguments of pytest]
# With npm there, axe-core is asked as well what keeps people from reading them.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
PLACE=runs/browser

[ -d "$PLACE/playwright" ] || "$PYTHON" -m pip install --quiet --target "$PLACE" playwright==1.65.2
if [ ! -f "$PLACE/node_modules/axe-core/axe.min.js" ] && command -v npm >/dev/null; then
    npm install --silent --no-save --prefix "$PLACE" axe-core@4.14.1
fi
PYTHONPATH=$PLACE OMP_NUM_THREADS=1 exec "$PYTHON" -m pytest -q tests/test_report_browser.py -m slow "$@"
