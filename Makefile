# `make` lists the targets: those whose lines end in a text after ##.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
DEMO_DIR := data/demo/scans
BENCH_DATA ?= $(DEMO_DIR)
BENCH_VAL_STRIDE ?= 4
WEIGHTS_DIR := data/weights-phantoms
WEIGHTS_OPTIONS := --data-dir $(WEIGHTS_DIR) --cache-dir data/weights-cache
WEIGHTS_SCANS ?= 100
WEIGHTS_SAMPLES ?= 150000
WEIGHTS_STEPS ?= 700
WEIGHTS_STATE ?= p2ch13/weights/nodules.state
# Of the first and of both stages. WEIGHTS_LEFT_OUT=NAME trains without this scan of BACKGROUNDS, to measure on it.
WEIGHTS_PAINTING := --backgrounds "$(BACKGROUNDS)" --nodule-shapes both \
	$(if $(WEIGHTS_LEFT_OUT),--left-out-background "$(WEIGHTS_LEFT_OUT)")

# Two tests at a time, a thread each: most of them wait for a process to start or do one thing after the other.
PYTEST := $(VENV)/bin/python -m pytest -q -n 2

help:
	@echo "Each target first installs into $(VENV)."
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

.PHONY: help demo notebook weights backgrounds test test-slow test-all docs-check bench stress check clean

demo: $(VENV)/installed  ## search synthetic scans, train a network, compare; FAST=1: in a minute
	$(VENV)/bin/python -m p2ch13.demo $(if $(FAST),--fast)

notebook: $(VENV)/installed-dev  ## execute notebooks/ and save them with their outputs, in minutes
	$(VENV)/bin/python -m tests.support.notebooks

# The first stage learns from phantoms and from nodules painted into the backgrounds, the second one from its findings.
weights: $(VENV)/installed-dev backgrounds $(WEIGHTS_DIR)/candidates.csv  ## train the network in the package again: make weights BACKGROUNDS=DIR, CT of lungs
	$(VENV)/bin/python precache.py $(WEIGHTS_OPTIONS) --preset strong --labels mask
	$(VENV)/bin/python -m p2ch13.training $(WEIGHTS_OPTIONS) --tb-prefix weights --val-stride 12 --preset strong \
		--labels mask $(WEIGHTS_PAINTING) --background-share 0.75 --nodule-entropy 0.15 \
		--samples-per-epoch $(WEIGHTS_SAMPLES) --compile yes --seed 1
	first_stage=$$(ls -t data/models/weights/*.best.state | head -n 1); \
	$(VENV)/bin/python -m p2ch13.second_stage $(WEIGHTS_OPTIONS) --checkpoint $$first_stage \
		$(WEIGHTS_PAINTING) --scans 40 --copies 5 --steps $(WEIGHTS_STEPS) --candidate-threshold 0.3 \
		--output $(WEIGHTS_STATE)
	$(VENV)/bin/python -m benchmarks.model_card

backgrounds: $(VENV)/installed-dev
	@test -d "$(BACKGROUNDS)" || { echo "make weights BACKGROUNDS=DIR: name a folder of CT scans of lungs" >&2; exit 2; }
	$(VENV)/bin/python -m benchmarks.held_out "$(BACKGROUNDS)"

test: $(VENV)/installed-dev  ## run the quick tests
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed-dev  ## run all tests, as .ci/run does
	$(PYTEST) --dist worksteal

test-slow: $(VENV)/installed-dev  ## run the other tests
	$(PYTEST) -m slow

docs-check: $(VENV)/installed-dev  ## run the commands of README and docs on tiny scans; list the others
	$(VENV)/bin/python -m tests.support.documentation
	$(PYTEST) tests/docs

bench: $(VENV)/installed-dev $(DEMO_DIR)/candidates.csv  ## measure speed and memory
	$(VENV)/bin/python -m benchmarks.bench --data-dir $(BENCH_DATA) --val-stride $(BENCH_VAL_STRIDE)

stress: $(VENV)/installed-dev  ## kill it, fill its disk, damage its files
	$(VENV)/bin/python -m stress

check: $(VENV)/installed-dev  ## check style, types and imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

clean:  ## remove what the other targets have made in data/
	rm -rf data/demo data/demo-fast
	rm -rf data/bench
	rm -rf $(WEIGHTS_DIR) data/weights-cache data/quality

$(DEMO_DIR)/candidates.csv: | $(VENV)/installed
	rm -rf $(DEMO_DIR)
	$(VENV)/bin/python -m p2ch13.phantom $(DEMO_DIR) --scans 16

$(WEIGHTS_DIR)/candidates.csv: | $(VENV)/installed
	rm -rf $(WEIGHTS_DIR)
	$(VENV)/bin/python -m p2ch13.phantom $(WEIGHTS_DIR) --scans $(WEIGHTS_SCANS) --seed 7

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
