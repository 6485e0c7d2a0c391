# Two commands: `make demo` and `make test`. `make help` lists the rest.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VENV ?= .venv
BIN = "$(VENV)/bin"
STAMP = $(VENV)/.installed
# The rivals of the benchmarks, and the clients, which nothing else needs.
BENCH_STAMP = $(VENV)/.installed-bench
CLIENTS_STAMP = $(VENV)/.installed-clients
.DEFAULT_GOAL := help
.PHONY: help demo test clients lint typing bench bench-quick faults conformance soak soak-locks soak-queues ci clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(STAMP) ## survey the standard library with pool_map: the main job on real input
	$(BIN)/python examples/stdlib_survey.py

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest $(ARGS)

clients: $(CLIENTS_STAMP) ## run dask, emcee, scipy and others on our pools (with ARGS=--write: docs/clients.md says with which versions)
	$(BIN)/python -m pytest --timeout=180 -o faulthandler_timeout=175 tests/clients $(ARGS)

lint: $(STAMP) ## check format, style and the directions of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

typing: $(STAMP) ## check the types, with mypy and pyright
	$(BIN)/mypy --strict
	@# Apart, as each of them has a conftest.
	$(BIN)/mypy --strict benchmarks
	$(BIN)/mypy --strict tests/clients/*.py
	$(BIN)/pyright --pythonpath $(BIN)/python
	@# --verifytypes heeds no --pythonpath: it asks the python that it finds on the path where packages are.
	PATH="$$(cd $(BIN) && pwd):$$PATH" pyright --verifytypes parallelkit --ignoreexternal

# A part, with ARGS, does not overwrite a whole run.
RUN = .benchmarks/$(if $(ARGS),part,bench).json
MEASURE = mkdir -p .benchmarks && $(BIN)/python -m pytest -q -p no:cacheprovider -o faulthandler_timeout=0 --benchmark-only

bench: $(BENCH_STAMP) ## measure against all rivals, and write docs/benchmarks.md (15 to 30 minutes; with ARGS="-k start" a part, printed)
	$(MEASURE) --benchmark-json=$(RUN) benchmarks $(ARGS)
	$(BIN)/python benchmarks/report.py $(RUN) $(if $(ARGS),,--page docs/benchmarks.md)

bench-quick: $(BENCH_STAMP) ## the same in 3 minutes: fewer rounds, no start method but fork; written to .benchmarks/quick.md
	$(MEASURE) --quick --benchmark-json=.benchmarks/quick.json benchmarks/test_suite.py $(ARGS)
	$(BIN)/python benchmarks/report.py .benchmarks/quick.json --page .benchmarks/quick.md

faults: $(BENCH_STAMP) ## measure what faults cost, with the rivals, and write docs/faults.md (20 minutes)
	cd benchmarks && "$(abspath $(VENV))/bin/python" -m faults $(or $(ARGS),--write ../docs/faults.md)

conformance: $(STAMP) ## run CPython's own tests of multiprocessing, and write docs/conformance.md
	cd tests && "$(abspath $(VENV))/bin/python" -m conformance.harness --write

KILLS = 200
SEED = 1
SECONDS = 600
METHOD = fork

soak: $(STAMP) ## random work and random faults on one pool, SECONDS=600 METHOD=fork SEED=1
	$(BIN)/python tests/soak.py --seconds $(SECONDS) --seed $(SEED) --method $(METHOD)

soak-locks: $(STAMP) ## kill who holds a lock, KILLS=200 times a kind, SEED=1
	$(BIN)/python tests/soak_locks.py --kind Lock --kills $(KILLS) --seed $(SEED)
	$(BIN)/python tests/soak_locks.py --kind Lock --kills $(KILLS) --seed $(SEED) --threads 2
	$(BIN)/python tests/soak_locks.py --kind RLock --kills $(KILLS) --seed $(SEED)
	$(BIN)/python tests/soak_locks.py --kind RLock --kills $(KILLS) --seed $(SEED) --threads 2
	$(BIN)/python tests/soak_locks.py --kind Condition --kills $(KILLS) --seed $(SEED)

soak-queues: $(STAMP) ## kill who puts and gets, KILLS=200 times a kind, SEED=1
	$(BIN)/python tests/soak_queues.py --kills $(KILLS) --seed $(SEED)

ci: ## all that CI runs
	.ci/run

clean: ## remove what these commands made
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

# The stamp is younger than pyproject.toml: nothing to install.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "parallelkit needs Python 3.11 or later: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit("parallelkit needs Python 3.11 or later, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	"$(PYTHON)" -m venv "$(VENV)"
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[progress,rich,cloudpickle]" --group dev
	@touch "$(STAMP)"

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --group bench
	@touch "$(BENCH_STAMP)"

$(CLIENTS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --group clients
	@touch "$(CLIENTS_STAMP)"
