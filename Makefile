# `make demo` and `make test` set up a new clone by themselves.
#
#   make demo PYTHON=python3.12                                   with this Python
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu    with the small PyTorch, without GPU libraries

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
TORCH ?=
TORCH_INDEX ?=
TESTS ?=

# PyTorch is installed by the digests in requirements/torch.lock, from PyPI or PyTorch's own index for processors.
# Another version (TORCH=torch==2.9.1) or index has no digests here and is installed without.
CPU_INDEX := https://download.pytorch.org/whl/cpu
LOCKED := $(if $(TORCH)$(filter-out $(CPU_INDEX),$(TORCH_INDEX)),,yes)
PINNED := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements/torch.lock)
FROM := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))

# Packages of ~/.local would hide what the lock installs.
export PYTHONNOUSERSITE := 1

# The system's python3 if it fits, else the newest that does.
fits = $(1) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] $(2))' 2>/dev/null
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $(call fits,$$p,<= (3, 13)); then echo $$p; exit; fi; done; if $(call fits,python3,); then echo python3; fi)

# The stamp's name identifies the set-up, so a second call is instant and any change sets up again.
KEY := $(shell { cat requirements/*.lock pyproject.toml; pwd; echo '$(TORCH) $(TORCH_INDEX)'; } 2>/dev/null | cksum | tr ' ' '-')
STAMP := $(VENV)/.set-up-$(KEY)
# The same with the tools of tests and pages.
TOOLS := $(VENV)/.set-up-tools-$(KEY)

# Tests share the cores, so waiting threads must not spin.
WORKERS := --numprocesses logical --maxprocesses 4 --dist worksteal
SHARED := OMP_WAIT_POLICY=passive

.DEFAULT_GOAL := help
.PHONY: help demo app test coverage test-slow cluster-quick cluster-test lint docs evaluate bench setup wheel release lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 20

demo: $(STAMP) ## set up, animate the examples, say where the gallery is
	$(BIN)/snakemake
	@echo; echo "Open the gallery in a browser:  $$(pwd)/results/index.html"

app: $(STAMP) ## set up, serve a page on which you try one picture and one video
	$(BIN)/talkies app

test: $(TOOLS) ## set up, run all tests except the slow ones; TESTS=tests/run: only these
	$(SHARED) $(BIN)/python -m pytest $(WORKERS) -m "not slow and not cluster" $(TESTS)

coverage: $(TOOLS) ## the same, and how much of the package they run, processes that they start included
	$(BIN)/coverage erase
	$(SHARED) $(BIN)/coverage run -m pytest $(WORKERS) -m "not slow and not cluster" $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under 90 --omit '*Snakefile,*.smk'

test-slow: $(TOOLS) ## run only the slow tests
	$(SHARED) $(BIN)/python -m pytest $(WORKERS) -m "slow and not cluster"

cluster-quick: $(TOOLS) ## run `snakemake --profile slurm` on a real SLURM, started for it (root, Debian's packages)
	$(BIN)/python -m pytest -m "cluster and not slow"

cluster-test: $(TOOLS) ## the same, with everything that can go wrong there
	scripts/testcluster/cluster.py check
	$(BIN)/python -m pytest -m cluster

lint: $(TOOLS) ## style, types and the workflow's own rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

docs: $(TOOLS) ## write config.yaml and its schema from the settings, build the pages into build/site
	$(BIN)/talkies config > .config.yaml && mv .config.yaml config.yaml
	$(BIN)/talkies config --schema > workflow/schemas/.config && mv workflow/schemas/.config workflow/schemas/config.schema.yaml
	$(BIN)/mkdocs build --strict --quiet
	@echo "The pages:  $$(pwd)/build/site/index.html"

evaluate: $(TOOLS) ## measure the demo network on drawings; ASSETS=folder: on rendered heads, PHOTOGRAPHS=1: on photographs
	$(BIN)/python training/evaluate.py
	$(if $(ASSETS),$(BIN)/python training/evaluate_heads.py --assets $(ASSETS))
	$(if $(PHOTOGRAPHS),$(BIN)/python training/photographs.py)

bench: $(TOOLS) ## time the engine and the workflow, on a machine that does nothing else (docs/performance.md; 90 minutes); PUBLISHED=folder: beside the published program
	$(if $(PUBLISHED),$(BIN)/python benchmarks/published.py $(PUBLISHED))
	$(BIN)/python benchmarks/frames.py --model vox-adv-256
	$(BIN)/python benchmarks/frames.py --model demo
	$(BIN)/python benchmarks/pairs.py
	$(BIN)/python benchmarks/film.py --model vox-adv-256 --precision fp32
	$(BIN)/python benchmarks/film.py --model vox-adv-256 --precision bf16
	$(BIN)/python benchmarks/film.py --model demo
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/start_up.py
	$(BIN)/python benchmarks/check_files.py
	$(BIN)/python benchmarks/pictures.py
	$(BIN)/python benchmarks/pairs_table.py
	$(BIN)/python benchmarks/workflow_scale.py
	$(BIN)/python benchmarks/app.py

setup: $(TOOLS) ## only set up, with the tools of tests and pages

wheel: $(TOOLS) ## build the sdist and the wheel twice, compare them, and try the wheel in an environment of its own
	$(BIN)/python scripts/release.py wheel

release: $(TOOLS) ## check that VERSION=1.2.3 is what the tree holds, build it as make wheel does, and tag it
	$(BIN)/python scripts/release.py tag '$(VERSION)'

# A wheel in a folder of PIP_FIND_LINKS comes first. PyTorch's requirements are in run.lock; PyPI's build for Linux also
# needs libraries for NVIDIA cards, which the build for processors does not.
PIP := $(BIN)/python -m pip --disable-pip-version-check
define torch_locked
{ test -z '$(FROM)' && $(PIP) install --quiet --no-index --require-hashes --no-deps -r requirements/torch.lock 2>/dev/null; } \
	|| $(PIP) install $(FROM) --require-hashes --no-deps -r requirements/torch.lock
	@if $(BIN)/python -c 'import re, sys, importlib.metadata as m; sys.exit(not re.search("nvidia-", str(m.requires("torch"))))'; then \
		$(PIP) install --require-hashes --no-deps -r requirements/gpu.lock; fi
endef

$(STAMP):
	@$(call fits,$(PYTHON),) || { echo "talkies needs Python 3.11 or newer, $(or $(PYTHON),python3) is not: name one that is: make PYTHON=/path/to/python3" >&2; exit 1; }
	@# Scripts in a venv contain its path: if it was moved or copied here, make it again.
	@if test -e $(BIN)/pip && ! grep -qF "$$(pwd)/" $(BIN)/pip; then rm -rf $(VENV); fi
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Could not make $(VENV). On Debian or Ubuntu: apt install python3-venv" >&2; exit 1; }
	rm -f $(VENV)/.set-up-*
	$(PIP) install --quiet --require-hashes -r requirements/run.lock
	$(if $(LOCKED),$(call torch_locked),$(PIP) install $(FROM) '$(or $(TORCH),$(PINNED))')
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(TOOLS): $(STAMP)
	$(PIP) install --quiet --require-hashes -r requirements/dev.lock
	@touch $@

lock: ## resolve the locks of requirements/ and containers/ again (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv" >&2; exit 1; }
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		--overrides requirements/no-torch.txt --extra app --extra dev --output-file requirements/dev.lock \
		pyproject.toml requirements/build.in requirements/torch.in
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		--overrides requirements/no-torch.txt --constraints requirements/dev.lock --extra app \
		--output-file requirements/run.lock pyproject.toml requirements/build.in requirements/torch.in
	uv pip compile --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command "make lock" \
		--overrides containers/not-inside.txt --constraints requirements/dev.lock --extra engine \
		--output-file containers/requirements.lock pyproject.toml requirements/torch.in
	python3 scripts/lock_torch.py $(or $(TORCH),$(PINNED))

clean: ## remove the environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* build dist
