# The only verbs. `make demo` and `make test` set everything up by themselves on a bare Debian 12 or Ubuntu with Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?=

.DEFAULT_GOAL := help
.PHONY: help venv demo up test check bench sim chaos docs format clean

help: ## list the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

venv: $(VENV)/.ready ## make the virtual environment with everything in it

$(VENV)/.ready: pyproject.toml requirements.lock
	@./tools/bootstrap "$(PYTHON)" "$(VENV)"
	@touch $@

demo: venv ## a local swarm of four nodes: deploy, send requests, kill the leader, show what happened
	@$(BIN)/python -P -m services.cli.demo

up: venv ## one node in the foreground, state in ./.swarm
	@$(BIN)/supervisor up --state-dir .swarm --listen-remote-api 127.0.0.1:4242

check: venv ## format, lint, types, import rules, unit, property and shell tests: the inner loop
	@$(BIN)/ruff format --check services swarmbus tests
	@$(BIN)/ruff check services swarmbus tests
	@$(BIN)/mypy
	@SIM_SECONDS=4 $(BIN)/python -m pytest -q tests/tidy tests/unit tests/property tests/golden tests/shell tests/sim \
		--deselect tests/sim/test_simulator.py::test_a_seed_that_has_found_something_finds_nothing_any_more

test: venv ## everything: make check, then real processes, engines, network namespaces
	@./tools/test "$(VENV)"

bench: venv ## print the figures, beside peers where they can be installed
	@$(BIN)/python -m tests.bench

sim: venv ## the simulator: SEED=n replays one run
	@$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED))

chaos: venv ## kill real processes and whole nodes for 200 rounds: an hour
	@CHAOS_ROUNDS=200 $(BIN)/python -m pytest -q -m chaos tests/chaos

docs: venv ## rewrite the pages that are rendered from the code
	@$(BIN)/python -m tests.tidy.protocol_page

format: venv ## format and fix what can be fixed
	@$(BIN)/ruff format services swarmbus tests
	@$(BIN)/ruff check --fix services swarmbus tests

clean: ## remove the environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
