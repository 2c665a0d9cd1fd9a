# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

.PHONY: monitoring help setup demo test fuzz lint type migration soak bench bench-results up down lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: .venv/.ready ## Build .venv with the pinned requirements and the hindcast command

.venv/.ready: requirements.txt requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else f"hindcast needs Python 3.11, 3.12 or 3.13; $$(command -v $(PYTHON)) is {sys.version.split()[0]}. Try: make PYTHON=python3.12 setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5,<1"
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --compile-bytecode -r requirements-dev.txt
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --no-deps --editable .
	touch $@

demo: setup ## Replay seven weeks of real flights, run the hourly DAG in Airflow, print what it found
	$(BIN)/python -m demo

test: setup ## Run the tests
	unset PYTHONDONTWRITEBYTECODE # the many processes that tests start shall find modules compiled
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

fuzz: setup ## Fuzz files and model files for long (500 examples each; HINDCAST_FUZZ=N for others)
	HINDCAST_FUZZ=$${HINDCAST_FUZZ:-500} $(BIN)/python -m pytest tests/test_fuzz.py --timeout 7200

lint: setup ## Check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

migration: setup ## Draft the step of the results' schema from tables.py: make migration M="windows has late_rows"
	$(BIN)/python -m hindcast.results.schema $(M)

soak: setup ## 200 windows: SDK, failing S3, checks killed 50 times and run twice at once, PostgreSQL; equal to a clean run
	$(BIN)/python -m tests.soak

bench: setup ## Run the benchmarks, quick sizes: ratios measured side by side
	$(BIN)/python benchmarks/run.py

bench-results: setup ## Run them at full size and write benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py --full

up: setup ## Start Airflow (three processes on SQLite, http://127.0.0.1:8080)
	$(BIN)/python -m demo.airflow up

down: ## Stop what `make up` started
	$(BIN)/python -m demo.airflow down

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header pyproject.toml
lock: setup ## Resolve the pinned requirements again
	$(LOCK) --all-extras --output-file requirements-dev.txt
	$(LOCK) --extra checks --extra airflow --extra demo --extra s3 --extra postgres -c requirements-dev.txt --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header requirements-compose.in -c requirements.txt --output-file requirements-compose.txt

monitoring: setup ## Write what Prometheus, Alertmanager and Grafana load
	$(BIN)/hindcast metrics rules -o include/prometheus/rules/models.yaml
	$(BIN)/hindcast oncall --alertmanager -o include/alertmanager/alertmanager.yml
	$(BIN)/python include/grafana/build.py

clean: ## Remove everything the other targets leave behind
	rm -rf .venv .hindcast .airflow build include/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
