# The commands of this repository. `make` alone lists them.

# Any Python from 3.11 on; the first that can also make an environment is taken. PYTHON=... chooses another.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.outrider-installed
# Options for the installation of torch, such as the address of an index that holds builds without CUDA.
TORCH_PIP_OPTIONS ?=

SOURCES := $(wildcard client analysis agent controller simulator dashboards cli)
PACKAGES := $(notdir $(patsubst %/,%,$(dir $(foreach source,$(SOURCES),$(wildcard $(source)/outrider*/__init__.py)))))
SCRIPTS := $(wildcard examples/llama4d tools bench)
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint static bench clean

help:
	@echo 'make install   make $(VENV) with all that development, the demo and the tests need'
	@echo 'make demo      train a small 4D job here and let faults hit it (MESH= FAULTS= STEPS= NODES= SEED= STATE= JSON= HEADLESS=1)'
	@echo 'make test      lint, and every test that is not slow'
	@echo 'make test-all  lint, and every test'
	@echo 'make lint      format, style, types, import contracts, tidiness'
	@echo 'make bench     every measurement under bench/, each beside the load of this machine'

# ---------------------------------------------------------------- environment

install: $(STAMP)

# torch goes in first and alone: the rest of the list would otherwise settle on another version of it.
$(STAMP): pyproject.toml
	@if [ -z '$(PYTHON)' ]; then \
		echo 'outrider needs Python 3.11 or newer with venv and ensurepip; none was found on PATH.' >&2; \
		echo 'Install one (Debian and Ubuntu: python3.11 python3.11-venv) or name it: make install PYTHON=/path/to/python3' >&2; \
		exit 2; fi
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'outrider needs Python 3.11 or newer; PYTHON=$(PYTHON) is older or does not run.' >&2; exit 2; }
	@$(BIN)/python -c 'import pip' >/dev/null 2>&1 || '$(PYTHON)' -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_PIP_OPTIONS) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[agent,controller,dashboard,job,dev]'
	@touch $@

# ---------------------------------------------------------------- the demo

DEMO_OPTIONS = $(if $(MESH),--mesh '$(MESH)') $(if $(NODES),--nodes '$(NODES)') $(if $(STEPS),--steps '$(STEPS)') \
	$(if $(FAULTS),--faults '$(FAULTS)') $(if $(SEED),--seed '$(SEED)') \
	$(if $(filter-out 0 no false,$(HEADLESS)),--headless) $(if $(JSON),--json '$(JSON)') $(if $(STATE),--state '$(STATE)')

demo: $(STAMP)
	$(BIN)/outrider demo $(strip $(DEMO_OPTIONS))

# ---------------------------------------------------------------- checks

static: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix --package ,$(PACKAGES))
	$(if $(SCRIPTS),$(BIN)/mypy $(SCRIPTS))
	$(BIN)/lint-imports --no-cache --no-logo

# The tidiness rules are tests; `make test` runs them with the others, so they are added here alone.
lint: static
	$(PYTEST) -q -m 'not slow' tests/style

test: static
	$(PYTEST) -m 'not slow' tests

test-all: static
	$(PYTEST) tests

# Each prints its own numbers; one that fails does not keep the others from running.
bench: $(STAMP)
	@failed=''; for file in $(filter-out bench/_%,$(wildcard bench/*.py)); do \
		echo "== $$file (load $$(cut -d' ' -f1-3 /proc/loadavg 2>/dev/null || echo unknown))"; \
		$(BIN)/python $$file || failed="$$failed $$file"; done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
