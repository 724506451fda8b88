# Everything runs from .venv; a fresh machine needs Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KEEP ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test unit integration soak lint lock schemas clean

help:  ## Show what can be made
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Create .venv and install from the hashed lock file

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Sluice needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "This Python cannot create a virtual environment; install its venv module."; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@echo "Compiling ..."
	@$(BIN)/python -m sluice.runtime.warm
	@touch $(STAMP)

demo: setup  ## Replay a real trace through real admission points (KEEP=1 leaves the stack up)
	@$(BIN)/sluice demo $(if $(KEEP),--keep)

# Those in the background use the core that the others leave idle while they wait for processes.
test: lint  ## Lint, types, rules of the house, and every test, real Kafka and ClickHouse included
	@$(BIN)/python -m pytest tests/unit tests/laws tests/bench > .test-unit.log 2>&1 & fast=$$!; \
	  trap 'kill $$fast; exit 130' INT TERM; \
	  $(BIN)/python -m pytest tests/integration; slow=$$?; \
	  wait $$fast; fast=$$?; cat .test-unit.log; rm -f .test-unit.log; exit $$((fast | slow))

unit: setup  ## The fast tests only
	@$(BIN)/python -m pytest tests/unit tests/laws

integration: setup  ## The tests on real Kafka and ClickHouse
	@$(BIN)/python -m pytest tests/integration

soak: setup  ## 50 random faults in 21 minutes, compared with the truth (SOAK_SECONDS, SOAK_FAULTS, SOAK_SEED)
	@$(BIN)/python -m tests.faults.soak

lint: setup  ## Style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .lint-imports.log || { cat .lint-imports.log; exit 1; }
	@rm -f .lint-imports.log

lock:  ## Resolve the dependencies again into requirements.lock
	@$(PYTHON) -m uv pip compile pyproject.toml --all-extras --group build --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links -o requirements.lock

schemas: setup  ## Freeze changed schemas as their next released version
	@$(BIN)/python -c "from sluice.wire.schema import release; print(*release(), sep='\n')"

clean:  ## Remove the environment and the local stack's folder
	@rm -rf $(VENV) .sluice
