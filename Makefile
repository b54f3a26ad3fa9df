# Everything a developer or CI runs. `make help` lists the targets.

# The distribution's own Python is profile-guided, and is what relays run on: pyenv's takes half as
# long again.
PYTHON ?= $(shell for it in /usr/bin/python3 python3; do $$it -c 'import sys; sys.exit( \
            sys.version_info < (3, 11))' 2>/dev/null && echo $$it && exit; done; echo python3)
JOBS   ?= 8
VENV   := .venv
BIN    := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1
unexport PYTHONDONTWRITEBYTECODE  # tests start hundreds of processes

.DEFAULT_GOAL := help
.PHONY: help test tests soak lint compiled fmt parts bench demo fresh lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  PYTHON=python3.12 chooses the interpreter of a new .venv; JOBS=8 the tests run at once"

test: parts  ## run all checks and tests; TESTS=tests/wire runs one folder
	@$(MAKE) --no-print-directory -j 2 lint tests

tests: compiled
	$(BIN)/pytest -n $(JOBS) --dist worksteal $(TESTS)

soak: $(VENV)/.dev parts  ## run load, fuzzing and promises for longer; TESTS=tests/fuzz runs a part
	SMTPPROXY_TEST_SOAK=1 $(BIN)/pytest -m soak -n $(JOBS) --dist worksteal -o timeout=1800 $(TESTS)

lint: $(VENV)/.dev  ## check formatting, lint, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Once, next to the checks: otherwise each process that runs tests compiles all of them.
compiled: $(VENV)/.dev
	@$(BIN)/pytest --collect-only -qq $(TESTS) >/dev/null

fmt: $(VENV)/.dev  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

parts: $(VENV)/.dev  ## install the real programs that tests use (as root, on Debian)
	@scripts/install-parts $(BIN)/python

bench: $(VENV)/.dev parts  ## run the benchmark; ARGS="--quick", "--large", "--postgres", "--milter"
	$(BIN)/python -m benchmarks $(ARGS)

demo: $(VENV)/.runtime  ## show the relay at work on invented people; KEEP=1 leaves it running
	@$(BIN)/smtpproxy demo $(if $(KEEP),--keep)

fresh:  ## run `make demo` and `make test` in a clean Debian (as root, with debootstrap); DIR=, TESTS=
	@TESTS="$(TESTS)" JOBS=$(JOBS) scripts/fresh $(DIR)

lock:  ## rewrite the three requirements*.lock with the newest releases
	@scripts/lock $(PYTHON)

clean:  ## remove everything that was built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: installing again is for changed requirements only. All of it is locked, each file by
# its hash.
$(BIN)/python:
	@scripts/make-venv $(VENV) $(PYTHON)

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@scripts/install-packages $(BIN) --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.runtime: pyproject.toml requirements.lock requirements-build.lock | $(BIN)/python
	@scripts/install-packages $(BIN) --require-hashes -r requirements.lock -r requirements-build.lock
	@scripts/install-packages $(BIN) --no-deps --no-build-isolation --editable .
	@touch $@
