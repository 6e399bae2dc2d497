# Two commands need nothing but Python >= 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out
NAME ?= candidate_speed
WHEEL_SITE := build/installed
WORKERS ?= 2
EVERYTHING := dev,pretrained,onnx,addresses,data,keras

# Programs compiled by one test process serve the others, and the next run.
COMPILED := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.jax_cache JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.3
# Tests compile thousands of programs and run each for a moment: plain code from LLVM, and XLA's older emitters,
# halve their time. `make test-wheel` runs some with the code that users get, as do demo, notebooks and benchmarks.
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

.PHONY: help demo test lint test-long test-slow test-wheel bench bench-gpu notebooks docs clean

help:
	@echo "make demo            search the bits of a real ImageNet network (3 minutes after install)"
	@echo "make test            lint, types and tests          make test-slow   the long and the slow ones"
	@echo "make bench NAME=x    one benchmark (QUICK=1: within 2 minutes); there are:"
	@grep -l '^if __name__ ==' benchmarks/*.py | sed 's|benchmarks/||; s|.py||' | grep -v -x torch_rival \
	  | sed 's|^|                       |'
	@echo "make notebooks       executes them (FAST=1)         make docs        builds docs/_build/html"

# One stamp per set of extras: installed again when pyproject.toml changes.
$(VENV)/.has-%: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "frugaljax needs Python >= 3.11: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.has-pretrained
	$(BIN)/nemojax search --out $(OUT) --budget 400 --time-limit 90 --resume

lint: $(VENV)/.has-$(EVERYTHING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(COMPILED) $(QUICKLY) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not long"

# LONG="tests/hwmodel tests/nemojax" runs those of some folders or files.
test-long: $(VENV)/.has-$(EVERYTHING)
	$(COMPILED) $(QUICKLY) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "long and not slow" $(LONG)

test-slow: $(VENV)/.has-$(EVERYTHING) $(VENV)/.has-bench
	$(COMPILED) $(BIN)/python -m pytest -m "slow or long"

# Against the wheel that users install, not against this folder, and with XLA's own optimizations: what is in the
# package, the console scripts, and the numbers that all else stands on.
WHEEL_TESTS := test_packaging.py test_public_api.py test_compiling.py */test_cli.py hwmodel/test_cli_hw.py hwmodel/test_placements.py egrljax/test_environment.py \
  nemojax/test_quantized.py nemojax/test_lowered.py nemojax/test_export_onnx_networks.py

test-wheel: $(VENV)/.has-$(EVERYTHING)
	rm -rf build dist
	$(BIN)/python -m build --wheel
	$(BIN)/python -m pip install --quiet --no-deps --target $(WHEEL_SITE) dist/*.whl
	cd build && $(COMPILED) FRUGALJAX_INSTALLED=installed PYTHONPATH=installed ../$(BIN)/python -P -m pytest \
	  -c ../pyproject.toml --rootdir .. -n $(WORKERS) --dist loadfile -m "not slow and not long" \
	  $(addprefix ../tests/,$(WHEEL_TESTS))

bench: $(VENV)/.has-pretrained,onnx,addresses,data,keras $(VENV)/.has-bench
	QUICK=$(QUICK) $(BIN)/python -m benchmarks.$(NAME)

# For a machine with an accelerator; uses the Python that is there, since its JAX fits its driver.
bench-gpu:
	QUICK=$(QUICK) $(PYTHON) -m benchmarks.gpu

notebooks: $(VENV)/.has-$(EVERYTHING)
	$(COMPILED) FAST=1 $(BIN)/python -m pytest -n $(WORKERS) --nbmake --nbmake-timeout=900 -p no:jaxtyping notebooks -o addopts=

docs: $(VENV)/.has-docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf build dist docs/_build .jax_cache .pytest_cache .mypy_cache .ruff_cache
