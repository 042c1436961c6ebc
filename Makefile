# `make demo` and `make test` set everything up by themselves; second runs skip the install.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Clients whose pins are not ours: each version in a folder, and what all of them need in another.
CLIENTS := $(VENV)/nixtla
NIXTLA  := 0.9.0 0.8.0 0.7.3
# Two processes of tests, whole files to each, in the order of their names; one that dies ends the run.
TWICE   := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0
FOLDER  := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target

.DEFAULT_GOAL := help
.PHONY: help setup clients demo serve test test-faults check format clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY)  ## the virtual environment with everything in it

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tsformer needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV) (a few minutes, once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clients: $(CLIENTS)/.ready  ## the Nixtla client in three versions, which the tests ask with

$(CLIENTS)/.ready: Makefile $(READY)
	@for version in $(NIXTLA); do $(FOLDER) $(CLIENTS)/$$version nixtla==$$version || exit 1; done
	@$(FOLDER) $(CLIENTS)/shared tenacity==9.2.1 zstandard==0.25.0
	@touch $@

demo: $(READY)  ## from a table to a served forecast, with real data
	@$(BIN)/tsformer demo

serve: $(READY)  ## the service at http://127.0.0.1:8000, until Ctrl-C
	@$(BIN)/tsformer serve

test: $(READY) $(CLIENTS)/.ready  ## all tests, but for the long ones with kills and crash points
	@$(BIN)/python -m pytest $(TWICE) -m 'not faults'

test-faults: $(READY)  ## the long tests with kills and crash points
	@$(BIN)/python -m pytest -m faults

check: $(READY)  ## format, lint, types, architecture
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY)  ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove the environment and everything made
	rm -rf $(VENV) .tsformer build *.egg-info
