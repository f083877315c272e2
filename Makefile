# make train    install, then train seven small AlexNets on scikit-learn's digits
# make test     install, lint, type-check, test
# make test-slow    the tests that take minutes
# make format   let ruff format and fix what it can

PYTHON ?= python3
BIN := .venv/bin

train: .venv/.installed
	$(BIN)/python -m alexnet_jax.train --config configs/digits.py --workdir runs/digits

test: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: .venv/.dev
	$(BIN)/python -m pytest -q -m slow

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed, $(PYTHON) is " + sys.version.split()[0] + "; set one with: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

.PHONY: train test test-slow format
