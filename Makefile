# make demo    super-resolve the photo, the clip and the burst of examples/ into demo-out/
# make test    the whole test suite
# make wheel   one wheel in dist/ for any Python from 3.11 and any torch from 2.10 on; with CUDA kernels if nvcc is there
#
# All make .venv first, the first two with msr in it and its kernels built. Settings, all optional:
#   PYTHON=python3.12            the Python to make .venv with, 3.11 or later
#   VENV=.venv                   where it stands; one that is there already is used, and a torch in it that fits is kept
#   TORCH=torch==2.13.0+cu130    which torch to install
#   PIP_FLAGS="..."              further arguments of every pip install, for example where to find that torch
#   MSR_EXTENSION=0, MSR_CUDA=0  no kernels at all, no CUDA kernels; MSR_CUDA=1: CUDA kernels for every GPU, or fail
#   ARGS="..."                   further arguments of the demo, the tests or the benchmarks

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
PIP_FLAGS ?=
ARGS ?=
OPS ?=

BIN := $(abspath $(VENV))/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
SOURCES := setup.py $(wildcard csrc/*)
DEPENDENCIES := $(VENV)/.dependencies
LOG := $(VENV)/install.log
# What was built with other switches does not count.
BUILT := $(VENV)/.built$(if $(filter 0,$(MSR_EXTENSION)),-without-extension)$(if $(filter 0,$(MSR_CUDA)),-without-cuda)
# ninja, where the kernels are built with several processes, is found in the environment.
export PATH := $(BIN):$(PATH)

.PHONY: demo test bench lint types sanitize cuda-check wheel install clean

demo: $(BUILT)
	$(BIN)/python examples/demo.py --out demo-out $(ARGS)

test: $(BUILT)
	$(BIN)/python -m pytest $(ARGS)

bench: $(BUILT)
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(BUILT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(BUILT)
	$(BIN)/mypy

# The CPU kernels and the CUDA kernels (run on the CPU) with every access checked. msr must not load its own beside them.
# OPS="splat flow_warp" does so for some ops, which takes less long.
sanitize: $(BUILT)
	MSR_EXTENSION=0 ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
		$(BIN)/python -m pytest --sanitize='$(OPS)' -m 'not once' -k 'not past_32_bits' --capture=sys \
		$(if $(OPS),$(OPS:%=tests/ops/test_%.py),tests/ops) $(ARGS)

cuda-check: $(BUILT)
	$(BIN)/python setup.py check_cuda

# Not from what an earlier wheel was made of: files that are gone since would be in it.
wheel: $(DEPENDENCIES)
	rm -rf build/lib* build/bdist*
	MSR_CUDA=$${MSR_CUDA-$$(command -v nvcc >/dev/null && echo 1)} \
		$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

install: $(BUILT)

$(DEPENDENCIES): constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit("msr needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	$(PIP) --quiet setuptools ninja
	$(PIP) --quiet '$(TORCH)'
	touch $@

$(BUILT): $(DEPENDENCIES) $(SOURCES) pyproject.toml
	$(PIP) --verbose --no-build-isolation --editable '.[test,bench]' >$(LOG) 2>&1 || { tail -n 100 $(LOG); exit 1; }
	@# Kernels that do not compile are left out; that is said here, and why stands in the log.
	@grep -oE 'msr: .*(kernels|references).*' $(LOG) | sort -u
	@$(BIN)/python -m msr info | grep '^extension'
	touch $@

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info msr/*.so
