# On a fresh machine with Python >= 3.11, `make demo` and `make test` each need nothing before them.
PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3
DEMO := transition iris --depth 2 3 --scales 0.01:100:41 --decades 1:1000:31 --out demo-output

VENV := .venv
BIN := $(VENV)/bin
CLI := $(VENV)/.installed-cli
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
# A notice about the next major version of MkDocs, which is not used.
export NO_MKDOCS_2_WARNING := 1

.PHONY: help demo test test-all lint types docs docs-check papers package lowest check clean
.NOTPARALLEL:

help:
	@echo 'make demo      run gflow $(DEMO)'
	@echo 'make test      the tests, without those marked slow; make test-all runs every test'
	@echo 'make docs      this documentation as a site in site/, its notebooks executed; make docs-check without that'
	@echo 'make papers    every study in its quick version, into build/papers'
	@echo 'make package   wheel and sdist, and the quickstart in an environment with neither extras nor sources'
	@echo 'make lowest    the tests of the core with the lowest versions that pyproject.toml allows'
	@echo 'make check     lint, types and test'
	@echo 'make clean     remove .venv, caches and demo-output'
	@echo 'PYTHON=/path/to/python3 chooses the interpreter that .venv is made with'

demo: $(CLI)
	$(BIN)/gflow $(DEMO)

test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ""

lint: $(DEV)
	$(BIN)/python -m ruff check .

types: $(DEV)
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

docs: $(DOCS)
	GFLOW_EXECUTE=true $(BIN)/python -m mkdocs build --strict

docs-check: $(DOCS)
	$(BIN)/python -m mkdocs build --strict

papers: $(CLI)
	$(BIN)/gflow reproduce all --quick --out build/papers

package: $(DEV)
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist .
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/clean
	$(BIN)/uv pip install --quiet --python $(VENV)/clean/bin/python dist/*.whl
	cd $(VENV)/clean && JAX_ENABLE_X64=1 bin/python $(CURDIR)/tests/quickstart.py

LOWEST := tests/test_closed_forms.py tests/test_clocks.py tests/test_datasets.py tests/limits/test_l1_l2.py tests/precise/test_precise_input.py

lowest: $(DEV)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/lowest
	$(BIN)/uv pip install --quiet --python $(VENV)/lowest/bin/python --resolution lowest-direct '.[cli]' 'pytest>=8.2' 'hypothesis>=6.100'
	$(VENV)/lowest/bin/python -m pytest -q -W default $(LOWEST)

check: lint types docs-check test

clean:
	rm -rf $(VENV) demo-output dist site .cache .pytest_cache .ruff_cache .hypothesis
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
