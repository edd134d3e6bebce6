# On a fresh machine with Python >= 3.11, `make demo` and `make test` each need nothing before them.
PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3
DEMO := transition iris --depth 2 3 --scales 0.01:100:41 --decades 1:1000:31 --out demo-output

VENV := .venv
BIN := $(VENV)/bin
CLI := $(VENV)/.installed-cli
DEV := $(VENV)/.installed-dev

.PHONY: help demo test test-all lint types check clean
.NOTPARALLEL:

help:
	@echo 'make demo      run gflow $(DEMO)'
	@echo 'make test      the tests, without those marked slow; make test-all runs every test'
	@echo 'make check     lint, types and test'
	@echo 'make clean     remove .venv, caches and demo-output'
	@echo 'PYTHON=/path/to/python3 chooses the interpreter that .venv is made with'

demo: $(CLI)
	$(BIN)/gflow $(DEMO)

test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m ""

lint: $(DEV)
	$(BIN)/python -m ruff check .

types: $(DEV)
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

check: lint types test

clean:
	rm -rf $(VENV) demo-output dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras; dev holds cli.
$(VENV)/.installed-%: pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { $(make_venv); }
	@echo 'Installing gflow[$*] and what it needs into $(VENV): a minute or two, once.'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@ $(if $(filter dev,$*),$(CLI))

# Candidates are run, not looked up: a name on the path may be a pyenv shim of a version that is not there.
# --clear only where no interpreter runs, so that an environment made by other means is completed, not wiped.
define make_venv
found=; bare=; clear=; $(BIN)/python -c '' >/dev/null 2>&1 || clear=--clear; \
for python in $(PYTHON); do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
  if $$python -c 'import ensurepip, venv' >/dev/null 2>&1; then found=$$python; break; fi; \
  bare=$$python; \
done; \
if [ -n "$$found" ]; then $$found -m venv $$clear $(VENV); \
elif [ -n "$$bare" ]; then \
  echo "gflow: $$bare has no ensurepip and so cannot make $(VENV); install it (on Debian and Ubuntu: apt install python3-venv) or name another interpreter with PYTHON=/path/to/python3." >&2; exit 1; \
else \
  echo "gflow: no Python >= 3.11 runs under the name(s) $(PYTHON); install one, or name it with PYTHON=/path/to/python3." >&2; exit 1; \
fi
endef
