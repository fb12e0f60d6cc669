# `make demo` and `make test` each take a fresh clone to their end: they need Python 3.11 or newer and nothing else.
# Everything is installed into .venv with pip, which reads its own variables (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL,
# PIP_FIND_LINKS, ...). For CPU-only PyTorch on Linux see "Installing" in README.md.

VENV ?= .venv
PYTHON ?= $(shell sh -c 'for python in python3 python3.11 python3.12 python3.13 python3.14 python; do \
	"$$python" -c "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1 \
	&& command -v "$$python" && break; done')

BIN := $(VENV)/bin
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
CHECKED := src tests benchmarks docs conftest.py

.DELETE_ON_ERROR:
.PHONY: help demo test bench docs lint style types format clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

demo: $(VENV)/.installed-lab ## compare all rules on the digits data
	OMP_NUM_THREADS=1 $(BIN)/feedalign compare --data digits --rules all --trials 3

test: $(VENV)/.installed-all ## run the tests and the examples in the documentation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

bench: $(VENV)/.installed-all ## time the rules against backprop; wants an idle machine
	$(BIN)/python -m benchmarks
	$(BIN)/python docs/render_blocks.py

docs: $(VENV)/.installed-all ## fill in the recorded numbers and build the documentation
	$(BIN)/python docs/render_blocks.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: style types ## check style, spelling and types

style: $(VENV)/.installed-all ## check style and spelling
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/codespell $(CHECKED) *.md CITATION.cff

types: $(VENV)/.installed-all ## check types
	$(BIN)/mypy

format: $(VENV)/.installed-all ## format the code and mend what ruff can
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

clean: ## remove the environment and everything that was built
	rm -rf $(VENV) docs/_build build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.installed-all: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP_INSTALL) -e '.[language,graphs,clicks,scenes,docs,dev]'
	@touch $(VENV)/.installed-lab $@

$(VENV)/.installed-lab: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP_INSTALL) -e '.[lab]'
	@touch $@

$(VENV)/.created:
	@test -n "$(PYTHON)" || { \
	echo "feedalign needs Python 3.11 or newer with its venv module, and none was found on the PATH." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make test PYTHON=/path/to/python3" >&2; \
	exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "feedalign needs Python 3.11 or newer; $(PYTHON) is older or does not run." >&2; exit 1; }
	@"$(BIN)/python" -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	@touch $@
