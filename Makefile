# Two commands do everything on a fresh machine: make quickstart, make test.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SHARED := $(wildcard ../shared/data)

# Many tests start Python anew: what one has compiled, the next finds, wherever that is switched off.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test exhaustive check install dev clean

quickstart: install
	$(BIN)/compress-explain quickstart

# Tests never reach for a model hub. Two processes of one thread each: more would keep two cores from getting anywhere.
test: export HF_HUB_OFFLINE = 1
test: export OMP_NUM_THREADS = 1
test: dev check
	$(BIN)/python -m pytest -m "not exhaustive$(if $(SHARED),, and not slow)" -n 2 --dist loadfile --no-loadscope-reorder --durations 40

# Every architecture through the exporters, every variant, and times foretold on a quiet machine, an hour in all: before a release, and after touching deployment.
exhaustive: export HF_HUB_OFFLINE = 1
exhaustive: export OMP_NUM_THREADS = 1
exhaustive: dev
	$(BIN)/python -m pytest -m exhaustive -n 2 --dist load

check: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile -c constraints.txt torch
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e ".[dev]"
	$(BIN)/pip install --quiet --no-compile --no-deps -c constraints.txt netcal
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
