# Every target sets up .venv by itself when it is missing or stale; `make` alone lists the targets.
EXP    ?= decm_digits
ARGS   ?=
RESUME ?= 0
SWEEP  ?= n2n
IMAGE  ?= gpu
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p && break; done)
STAMP  := .venv/.stamp
DECM   := .venv/bin/decm

unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never

.DEFAULT_GOAL := help
.PHONY: help setup train sweep test check lint dashboard sync wandb-workspace bars-digits ablation compare soak bench bench-gpu lock clean \
  docker-build docker-train docs docs-check notebooks

help:  ## what can be made
	@awk 'BEGIN {FS = ":.*##"} /^[a-z-]+:.*##/ {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  options: EXP=$(EXP)  ARGS='any Hydra override'  RESUME=1  IMAGE=gpu | cpu"

setup: $(STAMP)  ## create .venv from requirements.lock (about 6 GB on disk, with the CUDA build of torch)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "decm needs Python 3.11, 3.12 or 3.13 on the PATH"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "decm needs Python 3.11, 3.12 or 3.13; found $$($(PYTHON) --version). Choose with PYTHON=..."; exit 2; }
	@echo "setting up .venv from requirements.lock"
	@PYTHON="$(PYTHON)" docker/install.sh packages
	@docker/install.sh decm
	@touch $(STAMP)

train: $(STAMP)  ## train an experiment: EXP=decm_digits | decm_2d | teacher_digits | smoke
	$(DECM) train experiment=$(EXP) $(if $(filter-out 0,$(RESUME)),resume=auto) $(ARGS)

sweep: $(STAMP)  ## a sweep of conf/sweep: SWEEP=n2n | optuna_n2n | guidance; RESUME=1 goes on with the newest of the same
	$(DECM) train experiment=$(EXP) sweep=$(SWEEP) $(if $(filter-out 0,$(RESUME)),resume=auto) $(ARGS)

dashboard: $(STAMP)  ## browse the W&B runs below runs/ in the terminal, without an account (RUN=folder for one)
	@latest="$(RUN)"; \
	if [ -z "$$latest" ]; then latest=$$(ls -dt runs/*/*/wandb runs/*/multirun/*/*/wandb 2>/dev/null | head -n 1); fi; \
	if [ -z "$$latest" ]; then echo "No W&B run below runs/ yet: make train"; exit 2; fi; \
	if [ -d "$$latest/wandb" ]; then latest="$$latest/wandb"; fi; \
	.venv/bin/wandb leet "$$latest"

sync: $(STAMP)  ## upload every offline W&B run below runs/ (needs wandb login)
	@found=$$(find runs -maxdepth 7 -type d -name 'offline-run-*' ! -exec sh -c 'ls "$$1"/*.synced >/dev/null 2>&1' _ {} \; -print 2>/dev/null); \
	if [ -z "$$found" ]; then echo "No offline run below runs/ waits for an upload"; else echo "$$found" | xargs .venv/bin/wandb sync; fi

wandb-workspace: $(STAMP)  ## save the W&B workspace and report: ENTITY=<user or team> PROJECT=decm (needs wandb login)
	.venv/bin/python -m decm.report.dashboards "$(ENTITY)" $(PROJECT)

ifneq ($(filter-out gpu cpu,$(IMAGE)),)
  $(error IMAGE=$(IMAGE); expected gpu or cpu)
endif
COMPOSE := DECM_UID=$$(id -u) DECM_GID=$$(id -g) docker compose -f docker/compose.yaml

docker-build:  ## build the image decm:gpu (IMAGE=cpu: decm:cpu), from the same lock and script as .venv
	docker build -f docker/Dockerfile$(if $(filter cpu,$(IMAGE)),.cpu) -t decm:$(IMAGE) .

docker-train: docker-build  ## make train in a container, into the same runs/ (IMAGE=cpu: without a GPU)
	@mkdir -p runs data weights
	$(COMPOSE) run --rm trainer$(if $(filter cpu,$(IMAGE)),-cpu) \
	  train experiment=$(EXP) $(if $(filter-out 0,$(RESUME)),resume=auto) $(ARGS)

MULTIRUN := runs/decm_digits/multirun
ROWS     := 'hydra.sweep.subdir=$${hydra.runtime.choices.method}-$${seed}'  # as benchmarks/results.py reads them
TODAY    := $(shell date +%F)

bars-digits: $(STAMP)  ## decm_digits on seeds 0, 1, 2, into docs/results/digits.*, against the bars (10 minutes)
	$(DECM) train -m experiment=decm_digits seed=0,1,2 launcher=joblib \
	  hydra.sweep.dir=$(MULTIRUN)/bars $(ROWS)
	.venv/bin/python benchmarks/results.py $(MULTIRUN)/bars --out docs/results/digits --command "make bars-digits" \
	  --bars 1.15,1.15,1.0,1.1 --accuracy 0.98

ablation: $(STAMP)  ## the paper's rows on digits, seeds 0, 1, 2, two jobs at once, into docs/results/ablation.* (half an hour)
	$(DECM) train -m experiment=decm_digits method=fm,cd,fm_cd,fm_n2n,decm seed=0,1,2 launcher=joblib \
	  logger.group=ablation/$(TODAY) hydra.sweep.dir=$(MULTIRUN)/ablation $(ROWS) $(ARGS)
	.venv/bin/python benchmarks/results.py $(MULTIRUN)/ablation --out docs/results/ablation --command "make ablation" \
	  --ordering

compare: $(STAMP)  ## every method at the same cost, tuned alike, digits and 2-D, into docs/results/compare*.* (hours; starts again where it was)
	.venv/bin/python benchmarks/compare.py benchmarks/compare/digits.yaml --command "make compare" $(ARGS)
	.venv/bin/python benchmarks/compare.py benchmarks/compare/twod.yaml --command "make compare" $(ARGS)

bench: $(STAMP)  ## the training step's time, memory and operations on the CPU, into docs/results/step_cpu.json (ten minutes of one core)
	OMP_NUM_THREADS=1 .venv/bin/python benchmarks/step.py --set cpu --out docs/results/step_cpu.json
	.venv/bin/python benchmarks/largest.py

bench-gpu: $(STAMP)  ## the Triton tests, then the same for XL/1 in bf16 on a CUDA GPU, into docs/results/step_gpu.json
	.venv/bin/pytest -q tests/networks/test_attention_triton.py
	.venv/bin/python benchmarks/step.py --set gpu --out docs/results/step_gpu.json

# Two workers on two cores, and at most four: each takes 2 GB. ARGS=-n0 runs in one process, for a debugger.
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

test: $(STAMP)  ## the whole test suite
	$(PYTEST) $(ARGS)

check: $(STAMP) lint  ## lint and every test that is not slow, for daily work
	$(PYTEST) -m "not slow" $(ARGS)

docs: $(STAMP)  ## build the pages of docs/ and the API reference into site/ (a broken link is an error)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet $(ARGS)

docs-check: $(STAMP)  ## run the command blocks of README, CONTRIBUTING and docs/ that are marked as tested (ARGS=--quick)
	.venv/bin/python docs/check.py $(ARGS)

notebooks: $(STAMP)  ## run the notebooks (minutes, more where no run of digits is there yet); ARGS=--overwrite keeps what they print
	.venv/bin/python -m pytest --nbmake --nbmake-timeout=1800 notebooks $(ARGS)

soak: $(STAMP)  ## 20,000 steps of the 2-D toy, watched: memory, files and logs must not grow (ten minutes)
	.venv/bin/python benchmarks/soak.py $(ARGS)

lint: $(STAMP)  ## ruff, mypy, codespell
	.venv/bin/ruff check src tests benchmarks docs notebooks
	.venv/bin/ruff format --check src tests benchmarks docs notebooks
	.venv/bin/mypy
	.venv/bin/codespell src tests conf docs docker benchmarks *.md CITATION.cff Makefile

lock: $(STAMP)  ## resolve requirements.lock anew from pyproject.toml
	.venv/bin/uv pip compile --universal --python-version 3.11 --all-extras pyproject.toml -o requirements.lock --no-annotate

clean:  ## remove caches (never runs/)
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
