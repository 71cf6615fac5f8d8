# Every target sets up .venv by itself when it is missing or stale; `make` alone lists the targets.
EXP    ?= decm_digits
ARGS   ?=
RESUME ?= 0
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
STAMP  := .venv/.stamp
DECM   := .venv/bin/decm

unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never
export UV_COMPILE_BYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup train test lint dashboard sync wandb-workspace bars-digits ablation soak bench bench-gpu lock clean

help:  ## what can be made
	@awk 'BEGIN {FS = ":.*##"} /^[a-z-]+:.*##/ {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  options: EXP=$(EXP)  ARGS='any Hydra override'  RESUME=1"

setup: $(STAMP)  ## create .venv from requirements.lock (about 6 GB on disk, with the CUDA build of torch)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "decm needs Python 3.11, 3.12 or 3.13 on the PATH"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "decm needs Python 3.11, 3.12 or 3.13; found $$($(PYTHON) --version). Choose with PYTHON=..."; exit 2; }
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv from requirements.lock"
	@.venv/bin/python -m pip install -q --disable-pip-version-check uv
	@.venv/bin/uv pip sync -q -p .venv/bin/python requirements.lock
	@.venv/bin/uv pip install -q -p .venv/bin/python --no-deps -e .
	@touch $(STAMP)

train: $(STAMP)  ## train an experiment: EXP=decm_digits | decm_2d | teacher_digits | smoke
	$(DECM) train experiment=$(EXP) $(if $(filter-out 0,$(RESUME)),resume=auto) $(ARGS)

dashboard: $(STAMP)  ## browse the W&B runs below runs/ in the terminal, without an account (RUN=folder for one)
	@latest="$(RUN)"; \
	if [ -z "$$latest" ]; then latest=$$(ls -dt runs/*/*/wandb 2>/dev/null | head -n 1); fi; \
	if [ -z "$$latest" ]; then echo "No W&B run below runs/ yet: make train"; exit 2; fi; \
	.venv/bin/wandb leet "$$latest"

sync: $(STAMP)  ## upload every offline W&B run below runs/ (needs wandb login)
	@find runs -maxdepth 6 -type d -name 'offline-run-*' -exec .venv/bin/wandb sync {} +

wandb-workspace: $(STAMP)  ## save the W&B workspace and report: ENTITY=<user or team> PROJECT=decm (needs wandb login)
	.venv/bin/python -m decm.report.dashboards "$(ENTITY)" $(PROJECT)

SWEEP := runs/decm_digits/multirun

bars-digits: $(STAMP)  ## decm_digits on seeds 0, 1, 2, into docs/results/digits.json, against the bars (15 minutes)
	$(DECM) train -m experiment=decm_digits seed=0,1,2 hydra.sweep.dir=$(SWEEP)/bars
	.venv/bin/python benchmarks/results.py $(SWEEP)/bars --out docs/results/digits.json --command "make bars-digits" \
	  --bars 1.15,1.15,1.0,1.1 --accuracy 0.98

ablation: bars-digits  ## the paper's rows on digits, seeds 0, 1, 2, into docs/results/ablation.json (an hour)
	$(DECM) train -m experiment=decm_digits logger=csv objective=fm_cd,fm_n2n,fm,cd seed=0,1,2 \
	  hydra.sweep.dir=$(SWEEP)/ablation
	$(DECM) train -m experiment=decm_digits logger=csv objective=cd,decm seed=0,1,2 \
	  segment.consistency.objective.form=facm hydra.sweep.dir=$(SWEEP)/facm
	.venv/bin/python benchmarks/results.py $(SWEEP)/bars $(SWEEP)/ablation $(SWEEP)/facm --out docs/results/ablation.json --command "make ablation" \
	  --ordering

bench: $(STAMP)  ## the training step's time, memory and operations on the CPU, into docs/results/step_cpu.json (ten minutes of one core)
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/step.py --set cpu --out docs/results/step_cpu.json
	.venv/bin/python benchmarks/largest.py

bench-gpu: $(STAMP)  ## the same for XL/1 in bf16 on a CUDA GPU, into docs/results/step_gpu.json
	.venv/bin/python benchmarks/step.py --set gpu --out docs/results/step_gpu.json

test: $(STAMP)  ## the whole test suite
	.venv/bin/python -m pytest $(ARGS)

soak: $(STAMP)  ## 20,000 steps of the 2-D toy, watched: memory, files and logs must not grow (ten minutes)
	.venv/bin/python benchmarks/soak.py $(ARGS)

lint: $(STAMP)  ## ruff, mypy, codespell
	.venv/bin/ruff check src tests benchmarks
	.venv/bin/ruff format --check src tests benchmarks
	.venv/bin/mypy
	.venv/bin/codespell src tests conf docs benchmarks README.md Makefile

lock: $(STAMP)  ## resolve requirements.lock anew from pyproject.toml
	.venv/bin/uv pip compile --universal --python-version 3.11 --all-extras pyproject.toml -o requirements.lock --no-annotate

clean:  ## remove caches (never runs/)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
