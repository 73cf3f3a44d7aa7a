# Two commands do everything on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN := runs/quickstart

.PHONY: quickstart tiny-plugin test test-all test-browser mutate lint benchmark data gpu
.PHONY: gpu-bundle harness-env test-harness serving-env test-serving

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[train,eval,dev]"
	touch $(READY)

# Scenes and questions as image files and LLaVA-style JSON; made once.
runs/data/train: | $(READY)
	$(BIN)/python -m data.generate --output $@ --split train --n 4000
runs/data/validation: | $(READY)
	$(BIN)/python -m data.generate --output $@ --split val --n 400
runs/data/test: | $(READY)
	$(BIN)/python -m data.generate --output $@ --split test --n 2000
data: runs/data/train runs/data/validation runs/data/test

# Labels by two processes, a core each; then one core trains and another reads the images.
LABEL := OMP_NUM_THREADS=1 $(BIN)/python -m rcp label --config quickstart.yaml --processes 2

# Train a plug-in for some minutes, export it, and evaluate it with the tokens physically gone.
quickstart: $(READY) data
	rm -rf $(RUN)
	$(LABEL) --process 1 & other=$$!; $(LABEL) --process 0 && wait $$other
	OMP_NUM_THREADS=1 $(BIN)/python train.py --config quickstart.yaml --run_folder $(RUN)
	$(BIN)/python export.py --checkpoint $(RUN)/best.ckpt --output $(RUN)/plugin
	$(BIN)/python evaluate.py --plugin $(RUN)/plugin --data runs/data/test --limit 300 \
		--output $(RUN)/rows.json --report $(RUN)

# The plug-in that lies in the repository, made anew: configs/rcp_tiny.yaml in full, then measured.
tiny-plugin: $(READY) data
	rm -rf runs/tiny-plugin
	$(BIN)/python train.py --config rcp_tiny.yaml --run_folder runs/tiny-plugin
	$(BIN)/python export.py --checkpoint runs/tiny-plugin/best.ckpt --output runs/tiny-plugin/plugin
	$(BIN)/python evaluate.py --plugin runs/tiny-plugin/plugin --data runs/data/test --limit 300 \
		--output runs/tiny-plugin/rows.json
	$(BIN)/python export.py --checkpoint runs/tiny-plugin/best.ckpt --output data/tiny-plugin \
		--evaluation runs/tiny-plugin/rows.json --overwrite

# Two files of tests at a time, each on a core of its own.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

test: $(READY)
	$(TESTS)

# The slow ones too: every method on every family, compilation, training to the end.
test-all: $(READY)
	$(TESTS) -m "not gpu"

# A report in a real browser, which has to be there: apt-get install chromium.
test-browser: $(READY)
	PYTHON=$(BIN)/python sh tests/browser_env.sh

# What needs vLLM, which brings a torch of its own: in an environment of its own.
serving-env:
	sh tests/serving_env.sh $(PYTHON)
test-serving:
	OMP_NUM_THREADS=1 runs/serving-venv/bin/python -m pytest -q -m "not gpu" \
		tests/test_serving.py tests/test_serving_places.py tests/test_serving_engine.py

# Would the tests notice? Errors put into the package one by one; goes on where it was stopped.
# Some rooms only: make mutate ROOMS="rcp/repair rcp/folder"
mutate: $(READY)
	$(BIN)/python -m tests.mutation $(ROOMS)

lint: $(READY)
	$(BIN)/flake8
	$(BIN)/isort --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports

# configs/rcp_tiny.yaml in full: three seeds, two budgets, 2 000 test questions (resumable).
benchmark: $(READY) data
	$(BIN)/python -m benchmarks.tiny

# After `make quickstart`: lmms-eval, in an environment of its own, against evaluate.py.
HARNESS := runs/harness-env
harness-env:
	sh tests/harness_env.sh $(HARNESS)
test-harness: harness-env data
	OMP_NUM_THREADS=1 $(HARNESS)/bin/python -m pytest -q tests/test_harness.py
	OMP_NUM_THREADS=1 $(HARNESS)/bin/python -m benchmarks.harness

# What only a GPU can tell, in ten minutes; TINY=1 tries all of it on a CPU. With the machine's own
# Python, which a bare machine has with torch; here: make gpu TINY=1 PYTHON=.venv/bin/python
gpu:
	$(PYTHON) -m benchmarks.gpu $(if $(TINY),--tiny)

# What a GPU machine without a package index lacks, for install.sh in runs/gpu-bundle.
gpu-bundle: $(READY)
	$(BIN)/python -m benchmarks.gpu.bundle
