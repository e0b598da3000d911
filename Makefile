# Everything from a clean clone needs only Python 3.11 and make. Each target sets itself up; the second time is fast.
#
#   make run                          train the demo policy with FP8 rollouts and AIS
#   make run ARGS="--set run.steps=5" the same with other settings (`.venv/bin/ais config` lists them)
#   make run ENGINE=vllm              the same with vLLM as the engine of the rollouts; installs it (3.5 GB) the first time
#   make test                         every test that needs no Docker engine
#   make check                        format, lint, types, stub drift, import laws
#   make test-compose                 the deployment on a Docker engine, from locally made base images
#   make up                           the deployment itself, in the background, and where to look at it; make down ends it
#   make report                       the report of the deployment's run, in report.html
#   make proto                        generate the stubs of proto/ again
#   make clean                        remove the environment, caches and runs

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
VLLM := $(VENV)/.vllm
PROMETHEUS := $(VENV)/.prometheus
HELM := $(VENV)/.helm
VERIFIERS := $(VENV)/.verifiers
CONFIG ?= examples/sort16/config.toml
ENGINE ?=
WORKERS ?= 2
ARGS ?=

COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

export OMP_NUM_THREADS ?= 1

.PHONY: run test check proto test-compose images up down report setup clean

run: setup
	@$(BIN)/ais run -c $(CONFIG) $(if $(ENGINE),--set rollout.engine=$(ENGINE)) $(ARGS)

# Where vLLM, Prometheus, Helm or verifiers cannot be installed their tests are skipped, and say why; with
# AIS_REQUIRE_VLLM=1, AIS_REQUIRE_PROMETHEUS=1, AIS_REQUIRE_HELM=1 or AIS_REQUIRE_VERIFIERS=1 they fail. Two files at a
# time, the slow ones first; WORKERS=0: one.
test: $(INSTALLED)
	@$(MAKE) --no-print-directory $(VLLM) || echo "vLLM cannot be installed here: the tests of its engine are skipped"
	@$(MAKE) --no-print-directory $(PROMETHEUS) || echo "Prometheus cannot be installed here: the tests of alerts are skipped"
	@$(MAKE) --no-print-directory $(HELM) || echo "Helm cannot be installed here: the tests of its chart are skipped"
	@$(MAKE) --no-print-directory $(VERIFIERS) || echo "verifiers cannot be installed here: the test of its environments is skipped"
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check

proto: $(INSTALLED)
	$(BIN)/python proto/generate.py

images:
	deploy/local-images.sh

test-compose: $(INSTALLED) images
	AIS_REQUIRE_DOCKER=1 $(BIN)/python -m pytest -m compose tests/compose $(ARGS)

up:
	@env -u OMP_NUM_THREADS deploy/up.sh  # the stack's own is in .env

# What ran can be brought up again: `ARGS=--volumes` forgets it, the queue and the measurements.
down:
	@$(COMPOSE) down $(ARGS)

report:
	@$(COMPOSE) run --rm --no-deps -T --entrypoint sh evaluation -c \
	  'cd runs && name=$${AIS_RUN__NAME:-$$(ls -t | head -n 1)} && ais report $$name >&2 && cat $$name/report.html' > report.html || { rm report.html; exit 1; }
	@echo report.html

setup: $(INSTALLED) $(if $(filter vllm,$(ENGINE)),$(VLLM))

# A change of the pins installs again; a change of the code does not (the install is editable).
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11, or say make PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV) (about two minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[reasoning-gym]' || \
	  echo "reasoning-gym cannot be installed here (it needs a C compiler): no tasks of it, and its tests are skipped"
	@touch $@

$(VLLM): $(INSTALLED) deploy/install_vllm.py
	@$(BIN)/python deploy/install_vllm.py
	@touch $@

# The package verifiers has pins of its own, which are not ours.
$(VERIFIERS): $(INSTALLED)
	@$(PYTHON) -m venv $(VENV)/verifiers
	@$(VENV)/verifiers/bin/python -m pip install --quiet --disable-pip-version-check verifiers==0.4.0
	@touch $@

$(PROMETHEUS): $(INSTALLED) deploy/install_prometheus.py
	@$(BIN)/python deploy/install_prometheus.py
	@touch $@

$(HELM): $(INSTALLED) deploy/install_helm.py
	@$(BIN)/python deploy/install_helm.py
	@touch $@

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
