# `make demo` and `make test` do all the set-up that they need; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo suite test lint unit engine-test clean

help:
	@echo "make demo    try llmload on its simulated engine (about a minute after installation)"
	@echo "make suite   two real engines, two models, both protocols on the CPU (6 GB and half an hour)"
	@echo "make test    everything that CI runs: lint, types, tests, a real engine on CPU"
	@echo "make unit    the tests without the real engine"
	@echo "make clean   remove what was installed and built here"

$(VENV)/.ready: pyproject.toml
	@echo "Installing llmload into $(VENV) (a minute or two) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmload needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/llmload demo

suite: $(VENV)/.ready
	$(BIN)/python -m benchmarks.tools.cpu_engines install transformers vllm model
	$(BIN)/llmload suite benchmarks/cpu-suite.toml

test: lint unit engine-test

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.ready
	$(BIN)/pytest -m "not engine"

engine-test: $(VENV)/.ready
	$(BIN)/python -m benchmarks.tools.cpu_engines install transformers
	$(BIN)/python -m benchmarks.tools.cpu_engines install model
	$(BIN)/pytest -m engine

clean:
	rm -rf $(VENV) .engines dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
