# make demo   the whole job on synthetic data: installs into .venv, makes data, packs, trains, evaluates, reports
# make test   the tests;  make check  what CI runs: lint, types, tests
# Everything is installed into .venv; PYTHON chooses the interpreter that makes it (3.11 or newer).

PYTHON ?= python3
# test processes
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo demo-solo test check lint types format clean

install: $(VENV)/installed

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --no-build-isolation 'deepspeed>=0.19'
	touch $@

demo: install
	$(BIN)/ialcms demo

demo-solo: install
	$(BIN)/ialcms demo --supervised

test: install
	sh tests/install_chromium.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slurm'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slurm

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

check: lint types test

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
