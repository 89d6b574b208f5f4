# Every target does its own set-up in .venv; outside of it only temporary files are written.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-cache-dir

.DEFAULT_GOAL := help
.PHONY: help install demo dev test faults bench check lint wire lock clean
.DELETE_ON_ERROR:

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "tidegate needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3")'
	@echo "Setting up $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

install: $(STAMP) ## set up .venv

demo: $(STAMP) ## the guided tour: two replicas, real JetStream state
	@$(BIN)/tidegate demo

dev: $(STAMP) ## the whole stack on this machine, until Ctrl-C
	@$(BIN)/tidegate dev

test: $(STAMP) ## the default tests
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	  $(BIN)/python -m pytest --basetemp "$$scratch/t" --numprocesses auto --maxprocesses 4 \
	  --dist loadscope $(PYTEST_ARGS)

faults: $(STAMP) ## the long runs under real faults
	@$(BIN)/python -m pytest -m faults --timeout 3600 $(PYTEST_ARGS)

bench: $(STAMP) ## measure against the targets
	@PYTHONPATH=tests $(BIN)/python -m bench $(BENCH_ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python proto/generate.py --check

check: lint test ## ruff, mypy, import-linter, the contract's generated code, and the tests

wire: $(STAMP) ## generate src/tidegate/wire from proto/
	@$(BIN)/python proto/generate.py

lock: $(STAMP) ## resolve requirements.lock anew
	@$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --extra devstack --group check \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url --upgrade --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist
