# make demo | test | lint: each prepares .venv by itself. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint bench clean

help:
	@echo "make demo   restore the pictures of assets/demo into out/demo"
	@echo "make test   run the tests"
	@echo "make lint   ruff and pyright"
	@echo "make bench  how the small model does on held-out pictures"
	@echo "make clean  remove .venv, caches and out/"

demo: $(VENV)/.installed
	$(BIN)/python sample.py --input assets/demo --output out/demo --compare

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.tiny

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache out *.egg-info

# A stamp per set of extras, made anew when the dependencies change.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, \
	$(PYTHON) is %d.%d: make PYTHON=/path/to/python3" % v[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No virtual environment: Debian and Ubuntu need python3-venv."; exit 1; }

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV); the first time takes a minute."
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) with [$*]; the first time takes a minute."
	$(PIP) --editable '.[$*]'
	@touch $@
