# Everything lives in .venv/. `make demo` and `make test` install what they need first.
PYTHON   ?= python3
TORCH    ?= 2.13.0
PIP_ARGS ?=
BIN       = .venv/bin
STAMP     = .venv/.installed

.PHONY: demo test lint bench papers figures clean

demo: $(STAMP)
	$(BIN)/raysweep run sweeps/demo.yaml --store results/demo

# The README's picture, from docs/demo.csv; `make figures STORE=results/demo` makes that table from a new demo first.
figures: $(STAMP)
	$(BIN)/python docs/figures.py $(STORE)

# Three at a time on two cores: tests of faults and clusters mostly wait.
test: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch goes in first by plain pip: anything else that pulls it in may bring gigabytes of CUDA.
# On a machine without a GPU: make demo PIP_ARGS="--index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple"
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "raysweep needs Python 3.11 or 3.12: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade $(PIP_ARGS) "pip>=25.1"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) torch==$(TORCH)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e . --group dev
	@touch $(STAMP)

bench: $(STAMP)
	$(BIN)/python tests/benchmarks/startup.py
	$(BIN)/python tests/benchmarks/planning.py
	$(BIN)/python tests/benchmarks/packing.py run --device cpu --cases mlp-small,mlp
	$(BIN)/python tests/benchmarks/evaluation.py

papers: $(STAMP)
	$(BIN)/python analysis/papers.py

clean:
	rm -rf .venv results
