# Each target sets up what it needs and does nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := $(VENV)/.requirements-installed
BUILD := $(VENV)/.built
DEMO_OUTPUT := runs/demo
TEST_PROCESSES ?= 2
OTHER_SYSTEMS ?= aarch64-macos x86_64-windows-gnu aarch64-windows-gnu aarch64-linux-gnu

NATIVE_SOURCES := $(shell find csrc -type f)
PACKAGE_FILES := setup.py pyproject.toml CMakeLists.txt

.PHONY: demo test sanitize compilers bench wheel docs lint format clean install

# The main job: the embedded teacher loses its self-attention, is distilled, and generates again.
demo: install
	$(BIN)/deltaconv demo --output $(DEMO_OUTPUT)

# A file's tests run in one process, TEST_PROCESSES files at a time. Threads that wait must not spin: others need the cores.
test: install
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests -n $(TEST_PROCESSES) --dist loadfile

# The CPU kernels of every instruction set under AddressSanitizer, UBSan and ThreadSanitizer: minutes of building.
sanitize: install
	DELTACONV_SANITIZE=all $(BIN)/python -m pytest tests/kernels/test_sanitizers.py --timeout 3600

# The CPU library by Clang, tested, and its sources compiled for systems that are not here: docs/building.md.
compilers: install
	$(BIN)/pip install --quiet -r tools/compilers/requirements.txt
	tools/compilers/check_clang.sh
	$(BIN)/python tools/compilers/check_other_systems.py $(OTHER_SYSTEMS)
	$(BIN)/python -m pytest tests/test_compilers.py

bench: install
	$(BIN)/python -m pytest bench --benchmark-only

# What is published, into dist/: docs/releasing.md.
wheel: $(REQUIREMENTS)
	$(BIN)/pip install --quiet -r tools/release/requirements.txt
	PYTHON=$(BIN)/python tools/release/build_wheel.sh

# The documentation as a site, into site/; a warning, such as a link that leads nowhere, is an error: not under --quiet.
docs: $(REQUIREMENTS)
	$(BIN)/pip install --quiet -r docs/requirements.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(REQUIREMENTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/ptx/*.h' 'tests/ptx/*.cpp')
	$(BIN)/mypy

format: $(REQUIREMENTS)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/ptx/*.h' 'tests/ptx/*.cpp')

install: $(BUILD)

# For this machine's GPUs alone, unless told otherwise: all architectures take four times as long.
$(BUILD): export DELTACONV_CUDA_ARCHS := $(or $(DELTACONV_CUDA_ARCHS),native)
$(BUILD): $(REQUIREMENTS) $(NATIVE_SOURCES) $(PACKAGE_FILES)
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

# torch first and pinned: a bare or ranged torch would pull gigabytes of another build.
$(REQUIREMENTS): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $$(grep '^torch==' requirements.txt)
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

clean:
	rm -rf build dist runs site $(BUILD) deltaconv_kernels/_native
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
