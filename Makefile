# make demo: see it work on invented scans. make test: run the tests, those that are quick. make test-slow: the others.
# make check: style and types. make bench: measure speed and memory. make stress: kill it, fill its disk, damage its
# files. All install into .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
DEMO_DIR := data/demo
BENCH_DATA ?= $(DEMO_DIR)
BENCH_VAL_STRIDE ?= 4
DEMO_OPTIONS := --data-dir $(DEMO_DIR) --cache-dir data/demo-cache

# Two tests at a time, a thread each: most of them wait for a process to start or do one thing after the other.
PYTEST := $(VENV)/bin/python -m pytest -q -n 2

.PHONY: demo test test-slow bench stress check clean

# So short a training misses less with a little more weight on what is missed.
demo: $(VENV)/installed $(DEMO_DIR)/candidates.csv
	$(VENV)/bin/python precache.py $(DEMO_OPTIONS) --preset strong
	$(VENV)/bin/python -m p2ch13.training $(DEMO_OPTIONS) --tb-prefix demo --val-stride 4 --preset strong \
		--fn-weight 0.4 --epochs 1 --samples-per-epoch 15000
	model=$$(ls -t data/models/demo/*.best.state | head -n 1); scan=$$(ls $(DEMO_DIR)/subset*/*.mhd | sort -t / -k 4 | head -n 1); \
	$(VENV)/bin/python -m p2ch13.predict --checkpoint $$model $$scan --output data/demo-masks && \
	$(VENV)/bin/python -m p2ch13.evaluate --mask data/demo-masks --findings data/demo-masks/nodules.csv --labels refined \
		--data-dir $(DEMO_DIR) --output data/demo-evaluation --series-uid $$(basename $$scan .mhd)

test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed-dev
	$(PYTEST) -m slow

bench: $(VENV)/installed $(DEMO_DIR)/candidates.csv
	$(VENV)/bin/python -m benchmarks.bench --data-dir $(BENCH_DATA) --val-stride $(BENCH_VAL_STRIDE)

stress: $(VENV)/installed-dev
	$(VENV)/bin/python -m stress

check: $(VENV)/installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:
	rm -rf $(DEMO_DIR) data/demo-cache data/demo-masks data/demo-evaluation data/bench

$(DEMO_DIR)/candidates.csv: | $(VENV)/installed
	rm -rf $(DEMO_DIR)
	$(VENV)/bin/python -m p2ch13.phantom $(DEMO_DIR) --scans 16

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
