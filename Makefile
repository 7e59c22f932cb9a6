# Everything that people and machines do with this project. `make demo` and `make test` need Python 3.11+ and pip, nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster
MANIFEST ?= data/manifests/sample.csv
PROFILE ?= preview
UI_PORT ?= 3000
# An index of packages in which pip also looks for torch: the one that pytorch.org names for CPUs saves 3 GB.
TORCH_INDEX ?=

.PHONY: help home demo maps ui api up test lint format types unit bench clean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once; a few minutes with a cold cache)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --only-binary openvino openvino || \
		echo "note: there is no OpenVINO for this Python; torch computes instead, more slowly on a CPU"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

home: # the instance's configuration is the operator's once it is there
	@test -e "$$DAGSTER_HOME/dagster.yaml" || { mkdir -p "$$DAGSTER_HOME" && cp dagster.yaml "$$DAGSTER_HOME/dagster.yaml"; }
	@cmp -s dagster.yaml "$$DAGSTER_HOME/dagster.yaml" || \
		echo "note: $$DAGSTER_HOME/dagster.yaml differs from the shipped dagster.yaml and is used as it is; delete it to get the shipped one"

demo: $(VENV)/.installed home ## the sample manifest, end to end, under profile preview
	@DEPTH_ALLOW_PRIVATE_HOSTS=true $(BIN)/python -m pipelines.materialize data/manifests/sample.csv --profile preview

maps: $(VENV)/.installed home ## a manifest of your own: make maps MANIFEST=photos.csv PROFILE=preview
	@$(BIN)/python -m pipelines.materialize "$(MANIFEST)" --profile "$(PROFILE)"

ui: $(VENV)/.installed home ## Dagster's UI and daemon at http://127.0.0.1:3000 (UI_PORT)
	@$(BIN)/python -m pipelines.up --no-api -p $(UI_PORT)

api: $(VENV)/.installed ## the HTTP API at http://127.0.0.1:8000
	@$(BIN)/python -m depth_api

up: $(VENV)/.installed home ## the API, Dagster's UI and daemon together; one Ctrl-C ends all
	@$(BIN)/python -m pipelines.up -p $(UI_PORT)

test: lint unit ## everything that continuous integration runs

lint: $(VENV)/.installed-test ## ruff, import-linter, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

unit: export PYTHONDONTWRITEBYTECODE := # or every program that a test starts would compile all of the code again
unit: $(VENV)/.installed-test
	@$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder # one process a file: what a file's tests share is made once

format: $(VENV)/.installed-test ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-bench ## measure, in about 20 minutes; docs/benchmarks.md gets the table
	@$(BIN)/python -m benchmarks

clean: ## remove .venv, .dagster, data/store and caches; all else in data/ stays
	rm -rf $(VENV) .dagster data/store .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
