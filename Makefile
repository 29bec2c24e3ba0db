# Everything starts here: `make demo` and `make test` need only Python 3.11 (with venv) and make.
# Options of the command go in ARGS, e.g. make demo ARGS='--json --devices 20'.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
MICROPYTHON := tests/micropython/node_modules/.installed
ARGS ?=

.PHONY: demo test bench faults soak lint install lock system-tools micropython clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo     devices power up, activate and take their firmware, in a temporary folder"
	@echo "make test     lint, types, import contracts and tests (installs Mosquitto, node and Chromium where it may)"
	@echo "make bench    rates, each beside its floor"
	@echo "make faults   long runs with kills and faults, of many cases a sample: within an hour"
	@echo "make soak     the same with every case"
	@echo "make lint     lint, types and import contracts only"

demo: $(INSTALLED)
	@$(BIN)/firstlight demo $(ARGS)

test: $(INSTALLED) system-tools micropython lint
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not long" $(ARGS)

bench: $(INSTALLED)
	@$(BIN)/python -m tests.bench $(ARGS)

faults: $(INSTALLED)
	$(BIN)/python -m pytest -m long --timeout=3600 -s $(ARGS)

soak: $(INSTALLED)
	FIRSTLIGHT_SOAK=1 $(BIN)/python -m pytest -m long --timeout=7200 -s $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

install: $(INSTALLED)

# Made once, and again only when the pinned packages or the project's description change.
$(INSTALLED): requirements.lock pyproject.toml
	@python=""; for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	  if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python="$$p"; break; fi; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer with its venv module is needed (Debian: python3 python3-venv)" >&2; exit 1; fi; \
	if [ ! -x $(BIN)/python ]; then echo "making $(VENV) with $$python"; "$$python" -m venv $(VENV); fi
	@echo "installing the pinned packages into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# Mosquitto, node and Chromium for the tests that need them; where that is not possible those tests are skipped and say so.
system-tools:
	@.ci/system-tools

micropython: system-tools
	@if command -v npm >/dev/null 2>&1 && [ -f tests/micropython/package-lock.json ]; then $(MAKE) --no-print-directory $(MICROPYTHON); fi

$(MICROPYTHON): tests/micropython/package-lock.json
	@cd tests/micropython && npm ci --silent --no-audit --no-fund && touch node_modules/.installed \
	  || { [ -z "$$FIRSTLIGHT_REQUIRE_ALL" ] && echo "npm could not install the MicroPython build; its tests are skipped"; }

# Needs the network and pip-tools. The project's own line is taken out, because it names a folder of this machine.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe \
	  --no-header --no-annotate --extra dev -o requirements.new pyproject.toml
	{ head -n 1 requirements.lock; grep -v -e '^firstlight @' -e '^#' -e '^$$' requirements.new; } > requirements.lock.new
	rm requirements.new && mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) tests/micropython/node_modules build dist *.egg-info
