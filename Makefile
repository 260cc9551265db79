PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= demo
DATA ?= data
BENCH ?= bench
TEST_PROCESSES ?= 2
# A file stays in one process, for its fixtures; files come in the order of tests/conftest.py, quick ones last.
PYTEST := pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help env demo test test-unit coverage bench check format docs wheel-test soak scale cluster fuzz compat clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

env: $(STAMP) ## make the environment in .venv with pinned versions

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: dmdd needs Python 3.11 or newer; give one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## draw a small data set, train on it, show the result (about 6 minutes on two CPU cores)
	$(BIN)/python -m dmdd.data demo --output $(DEMO)/data
	$(BIN)/python -m dmdd.train dataset=demo category=plate data_dir=$(DEMO)/data teacher=efficientnet_lite0 recipe=demo augmentation=jitter hydra.run.dir=$(DEMO)/run

test: $(STAMP) ## run the tests, in TEST_PROCESSES=2 processes
	$(BIN)/python -m $(PYTEST)

test-unit: $(STAMP) ## run the quick tests: no training, no process of its own
	$(BIN)/python -m $(PYTEST) -m unit

SELECT ?=
coverage: $(STAMP) ## run the tests and say which lines they do not reach; SELECT='-m unit' runs the quick ones only
	$(BIN)/python -m $(PYTEST) $(SELECT) --cov=dmdd --cov-report=term-missing:skip-covered

docs: $(STAMP) ## build the documentation site in site/; a broken link is an error
	$(BIN)/python docs/generate.py docs
	NO_COLOR=1 $(BIN)/zensical build --clean --strict

wheel-test: ## build wheel and sdist, install the wheel into an environment of its own, run the demo's steps from there
	PYTHON=$(PYTHON) .ci/wheel-test

bench: $(STAMP) ## measure the speed of training, pairs, metrics and start-up on DATA=folder with mvtec_ad; MODEL=model folder adds inference
	mkdir -p $(BENCH)
	$(BIN)/python benchmarks/training_step.py --data-dir $(DATA) --output $(BENCH)/training_step.json
	$(BIN)/python benchmarks/pairs.py --json $(BENCH)/pairs.json
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/startup.py --output $(BENCH)/startup.json
	$(if $(MODEL),$(BIN)/python -m dmdd.bench model=$(MODEL) output=$(BENCH)/inference.json)

PROSE := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md CODE_OF_CONDUCT.md docs
check: $(STAMP) ## format, lint, types, order of imports, prose, spelling
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/check_prose.py $(PROSE)
	$(BIN)/codespell src tests benchmarks conf docs experiments *.md

format: $(STAMP) ## put the format right
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/python docs/check_prose.py --fix $(PROSE)

soak: $(STAMP) ## run for long: memory, file handles and threads stay flat (about ten minutes on two idle cores)
	OMP_NUM_THREADS=1 nice -n 10 $(BIN)/python benchmarks/soak.py --output soak.json

scale: $(STAMP) ## how training and prediction grow with the number of images (25 GB of disk and two hours on one idle core)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scale.py --output scale.json

CLUSTER ?= build/cluster
cluster: $(STAMP) ## train on a SLURM cluster that this makes of this machine, as root (needs slurm-wlm and munge)
	tests/cluster/slurm.sh up $(CLUSTER)/slurm
	SLURM_CONF=$(abspath $(CLUSTER))/slurm/slurm.conf $(BIN)/python tests/cluster/check_slurm.py $(CLUSTER)/work; \
	  code=$$?; tests/cluster/slurm.sh down $(CLUSTER)/slurm; exit $$code

fuzz: $(STAMP) ## try bad input in bulk and count what came of it (5 to 20 minutes on one core); DMDD_FUZZ=5 takes five times as many
	DMDD_FUZZ=$${DMDD_FUZZ:-1} OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/fuzz

COMPAT ?= build/compat
COMPAT_VERSIONS ?= oldest newest
COMPAT_PYTHONS ?= python3.11 python3.12 python3.13
COMPAT_TESTS ?= tests/models tests/metrics tests/pairs tests/training tests/inference/test_predictor.py tests/experiment/test_train.py
COMPAT_TOOLS := pytest hypothesis httpx scipy scikit-learn absl-py
compat: ## test a part with the oldest and the newest versions, in environments of their own (several GB; needs a registry)
	@for python in $(COMPAT_PYTHONS); do \
	  command -v $$python > /dev/null && $$python -c '' 2> /dev/null || { echo "$$python: not here, not tested"; continue; }; \
	  for versions in $(COMPAT_VERSIONS); do \
	    if [ $$versions = oldest ] && [ $$python != python3.11 ]; then continue; fi; \
	    place=$(COMPAT)/$$python-$$versions; echo "== $$python, $$versions versions"; \
	    pinned=$$([ $$versions = oldest ] && echo '-c constraints-oldest.txt'); \
	    $$python -m venv $$place && \
	    $$place/bin/python -m pip install --quiet $$pinned -e '.[lite,serve,tensorboard]' $(COMPAT_TOOLS) && \
	    OMP_NUM_THREADS=1 $$place/bin/python -m pytest -q -o filterwarnings=default $(COMPAT_TESTS) || exit 1; \
	  done; \
	done

clean: ## remove caches, the demo, figures of bench and soak, environments of compat; not the environment and not the runs
	rm -rf $(DEMO) $(BENCH) site soak.json scale.json .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -exec rm -rf {} +
