# Everything a stranger needs: make demo, make test, make check. Only Python 3.11 or newer must be there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := $(wildcard embervlm/engine/*.[ch])
DEMO_PHOTO := embervlm/demo/seabed.jpg
DEMO_REQUEST := Our sensor came off its mooring somewhere here. Find it and cut the line.

.PHONY: demo fuzz test check data-check docs format clean

# One decision, by the small tier alone: no PyTorch.
demo: $(VENV)/.small
	$(BIN)/embervlm decide $(DEMO_PHOTO) "$(DEMO_REQUEST)"

# A process for each core, four at most; each works with one thread.
test: $(VENV)/.full
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4

check: $(VENV)/.full data-check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run -Werror embervlm/engine/*.[ch] tests/engine/*.c benchmarks/*.c
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/figures.py

# The documentation site, in build/site; a dead link or something loaded from elsewhere fails.
docs: $(VENV)/.full
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Mutated model files under the sanitizers: 50,000 take some minutes.
FUZZ ?= 50000
fuzz: $(VENV)/.full
	mkdir -p build/fuzz
	$(BIN)/python tests/engine/write_seed.py build/fuzz/seed.gguf
	$(BIN)/python tests/engine/write_seed.py build/fuzz/bitmar.gguf bitmar
	$(CC) -std=c11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -ffp-contract=off -pthread \
		-Iembervlm/engine embervlm/engine/*.c tests/engine/fuzz.c -o build/fuzz/fuzz -lm
	build/fuzz/fuzz build/fuzz/seed.gguf $(FUZZ) 1
	build/fuzz/fuzz build/fuzz/bitmar.gguf $(FUZZ) 1

data-check: $(VENV)/.small
	$(BIN)/embervlm data check

format: $(VENV)/.full
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i embervlm/engine/*.[ch] tests/engine/*.c benchmarks/*.c

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("set PYTHON: 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# Stamps: nothing is installed twice unless pyproject.toml or the engine has changed.
$(VENV)/.small: pyproject.toml $(ENGINE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.full: pyproject.toml $(ENGINE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[train,dev]'
	touch $(VENV)/.small $@
