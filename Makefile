# Every target does its own set-up, once: the stamps in .venv follow pyproject.toml, constraints.txt and scripts/venv.sh.
#   PYTHON=python3.12        the interpreter to use (default: the first one >= 3.10 on the PATH)
#   TORCH_INDEX=https://...  where to take torch from (default: PyTorch's CPU builds where there is no NVIDIA driver)
# One thread per process: tensors here are small, and ManiSkill's workers and pytest's already share the cores.
export OMP_NUM_THREADS ?= 1
BIN := .venv/bin
SETUP := pyproject.toml constraints.txt scripts/venv.sh

.PHONY: help demo test check format bench wheel venv clean
.DELETE_ON_ERROR:

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 9

demo: .venv/.core ## Train an expert from a weak teacher, compare them, write a report (minutes, CPU)
	@bash scripts/demo.sh

test: .venv/.dev ## Run the whole test suite, ManiSkill included
	@sh scripts/system-deps.sh
	$(BIN)/pytest -n 2

check: .venv/.dev ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev ## Fix what the linter can, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.core ## Measure environments and the training loop
	$(BIN)/rpd bench env
	$(BIN)/rpd bench train

wheel: .venv/.core ## Build the wheel and try it in an empty environment
	@bash scripts/wheel_smoke.sh

venv: .venv/.dev ## Everything that development needs, in .venv

.venv/.core: $(SETUP)
	@bash scripts/venv.sh core

.venv/.dev: .venv/.core
	@bash scripts/venv.sh dev

clean: ## Remove what the targets made, runs excepted
	rm -rf .venv build dist .pytest_cache .ruff_cache .mypy_cache *.egg-info
