PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
DATA ?= data
BENCH ?= bench
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo test bench check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

env: $(STAMP) ## make the environment in .venv with pinned versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: dmdd needs Python 3.11 or newer; give one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## draw a small data set, train on it, show the result (about 6 minutes on two CPU cores)
	$(BIN)/python -m dmdd.data demo --output $(DEMO)/data
	$(BIN)/python -m dmdd.train dataset=demo category=plate data_dir=$(DEMO)/data teacher=efficientnet_lite0 recipe=demo hydra.run.dir=$(DEMO)/run

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -q

bench: $(STAMP) ## measure the speed of training, pairs, metrics and start-up on DATA=folder with mvtec_ad; MODEL=model folder adds inference
	mkdir -p $(BENCH)
	$(BIN)/python benchmarks/training_step.py --data-dir $(DATA) --output $(BENCH)/training_step.json
	$(BIN)/python benchmarks/pairs.py --json $(BENCH)/pairs.json
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/startup.py --output $(BENCH)/startup.json
	$(if $(MODEL),$(BIN)/python -m dmdd.bench model=$(MODEL) output=$(BENCH)/inference.json)

check: $(STAMP) ## format, lint and types
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

format: $(STAMP) ## put the format right
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

clean: ## remove caches and the demo, not the environment and not the runs
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -exec rm -rf {} +
