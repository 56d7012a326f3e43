# make demo     install and serve the app on 127.0.0.1:7860
# make test     install with test extras and run the whole suite
# make help     the other targets

VENV := .venv
PY := $(VENV)/bin/python
# The first that really runs: a version manager may offer a python3.11 that is not installed.
PYTHON ?= $(shell python3.11 -c "" >/dev/null 2>&1 && echo python3.11 || echo python3)
HOST ?= 127.0.0.1
PORT ?= 7860
# Test processes; 2 suit two cores. PYTEST_ARGS goes to pytest as it is.
JOBS ?= 2
PYTEST_ARGS ?=
# Another wheel index for torch, torchvision and torchaudio (CPU only, ROCm). The last one given is remembered.
TORCH_INDEX ?= $(shell cat $(VENV)/.torch-index 2>/dev/null)

PIP := $(PY) -m pip --disable-pip-version-check
TORCH := torch torchvision torchaudio
EXTRA_INDEX = $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: help install install-test demo test test-fast lint bench clean remember-index

help:
	@echo "make install [TORCH_INDEX=URL]  make $(VENV) and install genmm; a second run installs nothing"
	@echo "make demo [PORT=7860]           serve the app on $(HOST)"
	@echo "make test                       the whole test suite"
	@echo "make test-fast                  the tests that are not marked slow"
	@echo "make lint                       ruff"
	@echo "make bench                      measure and print the tables of speed"
	@echo "make clean                      remove $(VENV), caches and build leftovers"

install: $(VENV)/.installed

install-test: $(VENV)/.installed-test

demo: $(VENV)/.installed
	$(VENV)/bin/genmm app --host $(HOST) --port $(PORT)

test: $(VENV)/.installed-test
	$(PY) -m pytest -n $(JOBS) --dist loadfile -m "slow or not slow" $(PYTEST_ARGS)

test-fast: $(VENV)/.installed-test
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .

bench: $(VENV)/.installed
	$(VENV)/bin/genmm bench

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .gradio
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "genmm needs Python 3.11 or newer; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# Made anew only when another index is asked for, so that a repeated call finds nothing to do.
ifneq ($(TORCH_INDEX),$(shell cat $(VENV)/.torch-index 2>/dev/null))
$(VENV)/.torch-index: remember-index
endif
$(VENV)/.torch-index: $(VENV)/.made
	@echo "$(TORCH_INDEX)" > $@

$(VENV)/.torch: $(VENV)/.torch-index
	$(if $(TORCH_INDEX),$(PIP) install --quiet --force-reinstall --no-deps --index-url $(TORCH_INDEX) \
		-c constraints.txt $(TORCH))
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --quiet $(EXTRA_INDEX) -c constraints.txt -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet $(EXTRA_INDEX) -c constraints.txt -e ".[test]"
	touch $@
