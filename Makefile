# Everything a newcomer runs. It needs make and Python 3.11 or later; all else is installed into .venv.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
# What is installed where .venv has no torch yet, for CPUs where PyTorch's own index of those builds can be reached: PyPI's
# brings gigabytes for GPUs on Linux. A torch that is there already is left as it is.
TORCH := torch==2.13.0
CPU_BUILDS := https://download.pytorch.org/whl/cpu
STUDIES := gold_baseline fairytaleqa refinement msmarco_dl

export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help venv demo test check bench studies docs

help:  ## list these targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

venv: $(READY)  ## create .venv and install Retort into it; the others do this where it is needed

demo: $(READY)  ## distil a retriever from the documentation of Python's libraries, and print how good it is
	$(VENV)/bin/retort run recipes/demo.yaml

# Tiny models gain nothing from a second thread, and much from a second process.
test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadgroup

check: $(READY)  ## look at the code without running it: lint, format, types, layers
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(PYTHON) -m pytest tests/test_layers.py

bench: $(READY)  ## measure speed and size against others in 20 minutes, print targets and verdicts; then the slow tests
	$(PYTHON) benchmarks/bench.py
	$(PYTHON) -m pytest -m slow

studies: $(READY)  ## train on the data in RETORT_DATA, a line of JSON each; hours
	for script in $(STUDIES); do $(PYTHON) benchmarks/$$script.py || exit 1; done

docs: $(READY)  ## run every example of the documentation, and follow its links
	$(PYTHON) -m pytest tests/test_docs.py tests/test_examples.py

# The file torch.txt holds pip to the torch that is there, whatever it is.
$(READY): pyproject.toml constraints.txt | $(PYTHON)
	$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip
	$(PYTHON) -c 'import torch' 2>/dev/null || $(PYTHON) -m pip install -q -c constraints.txt $(TORCH) $$( \
	  $(PYTHON) -c 'from urllib.request import urlopen; urlopen("$(CPU_BUILDS)/torch/", timeout=3)' 2>/dev/null && \
	  echo --extra-index-url $(CPU_BUILDS))
	$(PYTHON) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/torch.txt
	$(PYTHON) -m pip install -q -c constraints.txt -c $(VENV)/torch.txt -e '.[dev,demo]'
	@touch $@

$(PYTHON):
	@found=; for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Retort needs Python 3.11 or later; found $$(python3 --version 2>/dev/null || echo none). Install one, or put it on PATH." >&2; \
	  exit 1; \
	fi; \
	echo "creating $(VENV) with $$($$found --version)"; \
	$$found -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
