# make train    install, then train seven small AlexNets on scikit-learn's digits
# make test     install, lint, type-check, test
# make lint     the first half of it: format, lint, types
# make test-slow    the tests that take minutes
# make test-newest  some tests with the newest JAX, on Python 3.14, 3.13 or 3.12, in an environment of its own
# make results-check    fail if a page shows results that their files don't have
# make notebook     execute docs/alexnet_notebook.py and write docs/alexnet.ipynb
# make format   let ruff format and fix what it can

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each is tried, not only looked for: pyenv's shim of a version that is not chosen is there, but does not run.
NEWEST := $(foreach version,3.14 3.13 3.12,python$(version) $(wildcard $(HOME)/.pyenv/versions/$(version).*/bin/python))

train: $(VENV)/.installed
	$(BIN)/python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits

test: lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m slow

test-newest:
	@for python in $(NEWEST); do \
	    if $$python -c 'import ensurepip' 2>/dev/null; then exec $(MAKE) PYTHON=$$python VENV=.venv-newest test-marked; fi; \
	done; echo 'test-newest: skipped, there is no Python 3.14, 3.13 or 3.12 here; name one with: make test-newest NEWEST=PATH'

test-marked: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'newest and not slow'

results-check: $(VENV)/.installed
	$(BIN)/python -m experiments.publish --check

notebook: $(VENV)/.dev
	$(BIN)/python docs/make_notebook.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 15) else "Python 3.11 to 3.14 is needed, $(PYTHON) is " + sys.version.split()[0] + "; set one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.PHONY: train test lint test-slow test-newest test-marked results-check notebook format
