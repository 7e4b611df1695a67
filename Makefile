# `make demo` and `make test` are all a newcomer needs; each sets everything up first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
READY := $(VENV)/.ready
PY := $(VENV)/bin/python
# DVC runs `python -m stages.…`: the environment's own python has to be the first one it finds.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help setup demo test check bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv and install everything (about 5 GB; once)

$(READY): pyproject.toml constraints.txt
	@base=""; for one in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then base="$$one"; break; fi; \
	done; \
	if [ -z "$$base" ]; then echo "No Python 3.11 or newer found; install one, or name it: make setup PYTHON=/path/to/python3"; exit 1; fi; \
	if [ ! -x $(PY) ]; then echo "Making $(VENV) with $$($$base -V) …"; "$$base" -m venv $(VENV); fi
	@echo "Installing the packages; the first time takes a minute or more …"
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## Run the whole chain on generated crowds; ends with figures and a report (5 to 6 minutes)
	@dvc repro
	@$(PY) -m stages.outcome

test: $(READY) ## Run the tests (about 8 minutes)
	@$(PY) -m pytest -q

check: $(READY) ## Lint, format, types, import floors, README commands
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@$(PY) -m pytest -q tests/test_readme.py

bench: $(READY) ## Measure speed and memory against plain references; prints tables, writes benchmarks/results/
	@$(PY) -m benchmarks

clean: ## Remove what stages and tests made; keeps raw data, .venv and the caches of DVC and of annotate
	@rm -rf logs resume build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache ./*.egg-info
	@for made in data/*/prepared data/*/nnec data/*/annotate data/*/labeled_*; do \
	  [ -e "$$made" ] && rm -rf "$$made" || true; done
