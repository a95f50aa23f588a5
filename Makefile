# `make demo` and `make test` do all the set-up that they need; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Hundreds of processes import the same modules: where the environment keeps Python from writing bytecode down, each would
# compile them again.
unexport PYTHONDONTWRITEBYTECODE

# The tests in groups of processes that run side by side: most of their time is waiting for runs of seconds. Tests that
# compare times come last, alone, but for the pages' commands: these are whole runs, too many to wait for one by one.
loadgen-a := tests/loadgen/test_runs.py tests/loadgen/test_loads.py tests/loadgen/test_progress.py tests/loadgen/test_web_page.py
loadgen-b := $(addprefix tests/loadgen/test_,cut_runs.py edits.py failing_runs.py odd_input.py)
loadgen-c := $(addprefix tests/loadgen/test_,lost_folder.py full_disk.py worker_faults.py)
loadgen-d := $(addprefix tests/loadgen/test_,locusts_figures.py slow_worker.py unopened_windows.py capacity.py repeat.py)
interrupts := tests/test_interrupts.py tests/loadgen/test_lying_worker.py
loadgen-e := $(filter-out $(loadgen-a) $(loadgen-b) $(loadgen-c) $(loadgen-d) $(interrupts),$(wildcard tests/loadgen/test_*.py))
client := tests/client tests/simulator
programs := tests/suite tests/cli tests/test_packaging.py tests/test_pythons.py
pages := tests/test_docs.py
benchmarks := tests/benchmarks
figures := $(addprefix tests/,sizing scenario metrics stats runs report capacity sweep compare)
# The files that have tests with this mark: the others need not be read for one of them.
marked = $(shell grep -rl --include="*.py" "mark\.$(1)" tests)
# What depends on where stamps come from, once more as in a process that may not have the packet ring.
without-ring := tests/client/test_sockets.py
WITHOUT_RING := setpriv --bounding-set=-net_raw --inh-caps=-net_raw
# The longest begin first; the loadgen groups mostly wait, so that the two cores have time for three others beside them.
GROUPS := others figures loadgen-b loadgen-c loadgen-d loadgen-e loadgen-a pages client benchmarks programs interrupts without-ring
others := tests $(foreach group,$(filter-out others,$(GROUPS)),$($(group):%=--ignore=%))
# Lines are counted in processes that test much by themselves, by rewritten bytecode: a tracer makes them three times slower.
COUNTED := others figures client programs benchmarks
# Per cent of lines; it may not fall. Programs that tests start are not counted.
COVERAGE := 79
SLIPCOVER = $(if $(filter $@,$(COUNTED)),-m slipcover --json --out .coverage.$@.json)
# How a group is run, which is the target's name without `alone-`.
group = $(@:alone-%=%)
RUN = $(if $(filter without-ring,$(group)),$(shell $(WITHOUT_RING) true 2>/dev/null && echo $(WITHOUT_RING))) $(BIN)/python $(SLIPCOVER) -m pytest \
	-W "ignore:Module already imported" -o cache_dir=.pytest_cache/$(group) -m "not engine$(if $(filter pages,$(group)),, and not timing)" $($(group))
# The exit code of pytest where tests failed and nothing else is wrong.
FAILED := 1

# What the image is made of: Python 3.12 on Linux, as in deploy/Dockerfile. The index that uv is set to use is not written down.
LOCK := $(BIN)/uv pip compile --quiet --python-version 3.12 --python-platform linux --generate-hashes --no-emit-index-url
SBOM := dist/llmload.cdx.json

.PHONY: help demo suite test lint unit site $(GROUPS) $(GROUPS:%=alone-%) timing engine engine-test lock lock-upgrade sbom audit clean

help:
	@echo "make demo    try llmload on its simulated engine (about a minute after installation)"
	@echo "make suite   two real engines, two models, both protocols on the CPU (6 GB and half an hour)"
	@echo "make test    everything that CI runs: lint, types, tests, a real engine on CPU"
	@echo "make unit    the tests without the real engine"
	@echo "make lock    adapt the image's lock file to pyproject.toml; make lock-upgrade renews every version in it"
	@echo "make sbom    list what the image contains, as CycloneDX"
	@echo "make audit   hold the lock file against known vulnerabilities, where an advisory service answers"
	@echo "make site    build the documentation site into site/, from docs/ and zensical.toml"
	@echo "make clean   remove what was installed and built here"

$(VENV)/.ready: pyproject.toml
	@echo "Installing llmload into $(VENV) (a minute or two) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmload needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -e ".[dev]"
	-@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null # by all processors; pip would use one
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/llmload demo

suite: $(VENV)/.ready
	$(BIN)/python -m benchmarks.tools.cpu_engines install transformers vllm model
	$(BIN)/llmload suite benchmarks/cpu-suite.toml

test: $(VENV)/.ready
	@$(MAKE) --no-print-directory unit BESIDE="lint engine"
	@$(MAKE) --no-print-directory engine-test

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .
	$(BIN)/vulture

unit: $(VENV)/.ready
	@rm -rf .coverage* .pytest_cache
	@$(MAKE) --jobs=8 --keep-going --output-sync=target --no-print-directory $(BESIDE) $(GROUPS)
	@$(MAKE) --no-print-directory $(GROUPS:%=alone-%) timing
	@$(BIN)/python -m slipcover --merge .coverage.*.json --out .coverage.json --json --fail-under $(COVERAGE) >.coverage.txt; \
		code=$$?; tail -n 1 .coverage.txt; exit $$code

# A test that fails beside seven other groups may have been short of time: it has to pass alone.
$(GROUPS): $(VENV)/.ready
	@$(RUN) --durations=5 || [ $$? -eq $(FAILED) ]

$(GROUPS:%=alone-%): $(VENV)/.ready
	@! grep -qs '"tests' .pytest_cache/$(group)/v/cache/lastfailed || { echo "Once more, alone, what failed in the group $(group):"; $(RUN) --last-failed --maxfail=3; }

timing: $(VENV)/.ready
	@$(BIN)/pytest -m "timing and not engine" $(filter-out $(pages),$(call marked,timing))

engine: $(VENV)/.ready
	$(BIN)/python -m benchmarks.tools.cpu_engines install transformers
	$(BIN)/python -m benchmarks.tools.cpu_engines install model

engine-test: engine
	$(BIN)/pytest -m engine $(call marked,engine)

lock lock-upgrade: $(VENV)/.ready
	@$(LOCK) $(if $(filter lock-upgrade,$@),--upgrade) --custom-compile-command "make lock" --extra all pyproject.toml --output-file deploy/requirements.txt
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(LOCK) $(if $(filter lock-upgrade,$@),--upgrade) --custom-compile-command "make lock" - --output-file deploy/build-requirements.txt

sbom: $(VENV)/.ready
	@mkdir -p $(dir $(SBOM))
	@$(BIN)/python -W ignore::UserWarning $(BIN)/cyclonedx-py requirements --no-validate --pyproject pyproject.toml --output-reproducible --output-file $(SBOM) deploy/requirements.txt
	@echo "$(SBOM)"

site: $(VENV)/.ready
	$(BIN)/zensical build --strict

audit: $(VENV)/.ready
	@$(BIN)/python -m benchmarks.tools.advisories

clean:
	rm -rf $(VENV) .engines dist site .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
