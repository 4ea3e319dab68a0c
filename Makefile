# Every target installs its dependencies on first use: stamps in .venv depend on pyproject.toml, constraints.txt and scripts/venv.sh.
#   PYTHON=python3.12        the interpreter to use (default: the first one >= 3.10 on the PATH)
#   TORCH_INDEX=https://...  package index for torch (default: PyTorch's CPU builds without an NVIDIA driver)
# One thread per process: tensors are small, and the workers of ManiSkill and pytest already share the cores.
export OMP_NUM_THREADS ?= 1
BIN := .venv/bin
SETUP := pyproject.toml constraints.txt scripts/venv.sh

.PHONY: help demo test test-wire test-lerobot test-fast check format bench docs wheel venv clean
.DELETE_ON_ERROR:

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: .venv/.core ## Train an expert from a weak teacher, compare them, write a report (minutes, CPU)
	@bash scripts/demo.sh

# One process more than the cores of a small machine: many tests wait for robots, servers and clusters.
test: .venv/.dev ## Run the whole test suite, ManiSkill included
	@sh scripts/system-deps.sh
	$(BIN)/pytest -n 2 --dist loadgroup --ignore tests/rpd/deploy/wire

test-wire: .venv/.dev ## Test the drivers of UR and xArm with their real SDKs against fake controllers, one after the other
	$(BIN)/pytest tests/rpd/deploy/wire/test_ur.py
	$(BIN)/pytest tests/rpd/deploy/wire/test_xarm.py
	$(BIN)/pytest tests/rpd/deploy/wire/test_commissioning.py

test-lerobot: .venv/.dev ## Test the LeRobot driver with the real lerobot, in an environment of its own
	@bash scripts/lerobot_venv.sh
	.venv-lerobot/bin/python -m pytest tests/rpd/deploy/wire/test_lerobot.py tests/rpd/deploy/wire/test_commissioning.py -k 'lerobot or so101'

test-fast: .venv/.dev ## Run the tests that take less than a minute together, without ManiSkill, LIBERO and a GPU
	$(BIN)/pytest -n 2 -m "not slow and not maniskill and not libero and not gpu"

check: .venv/.dev ## Lint, formatting, wording, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/check_prose.py
	$(BIN)/mypy

format: .venv/.dev ## Apply the linter's fixes, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.core ## Measure environments and the training loop
	$(BIN)/rpd bench env
	$(BIN)/rpd bench train

docs: .venv/.dev ## Build the documentation site in build/site; a warning is an error (Python 3.11 or newer)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

wheel: .venv/.core ## Build the wheel and test it in an empty environment
	@bash scripts/wheel_smoke.sh

venv: .venv/.dev ## Install everything for development into .venv

.venv/.core: $(SETUP)
	@bash scripts/venv.sh core

.venv/.dev: .venv/.core
	@bash scripts/venv.sh dev

clean: ## Remove the outputs of all targets except runs
	rm -rf .venv .venv-lerobot build dist .pytest_cache .ruff_cache .mypy_cache *.egg-info
