# What a person does with this repository. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := sdk vlm services/envserver services/trainer services/policy
NODE_SERVER := sdk/overworld/scaffold/templates/node
NODE := $(NODE_SERVER)/node_modules/.package-lock.json
SEED ?= 0
ENV ?= gym_cards/NumberLine
UPDATES ?= 3

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# ALFWorld's planner is compiled: by cmake 4, too, which would refuse its age, and by whatever `python` is on the path.
export CMAKE_POLICY_VERSION_MINIMUM := 3.5

# Type checkers, those of projects that `overworld init` makes for one, follow paths and not the hooks of editable installs.
VISIBLE := --config-settings editable_mode=compat

.PHONY: help setup locks supply demo train study tutorial test check-simulators audit-simulators test-compose test-openenv test-atari test-demo test-oldest up up-train down dist chaos soak soak-policy lint format proto released-proto bench audit-learn branches changes diagnose-agents fuzz vulnerabilities demo-miniworld clean
.DELETE_ON_ERROR:

help: ## list these targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## make .venv and install everything in it

# What comes from elsewhere is checked against the hashes in locks/, but PyTorch: its build depends on the machine.
$(READY): constraints.txt locks/build.txt locks/development.txt VERSION $(PACKAGES:%=%/pyproject.toml) scripts/packages
	scripts/packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --no-deps --requirement locks/build.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --require-hashes --no-deps --no-build-isolation \
		--requirement locks/development.txt
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-deps --no-build-isolation $(VISIBLE) $(PACKAGES:%=--editable %)
	$(BIN)/pip check
	touch $@

locks: ## resolve the packages of constraints.txt again, and write down their hashes
	$(BIN)/python scripts/lock.py

demo: $(READY) ## clone, train and evaluate an agent on this machine; SEED=0
	$(BIN)/python -m demo --seed $(SEED)

demo-miniworld: $(READY) ## an agent learns to walk to the box it sees, beside what blind ones reach: 25 CPU-minutes; SEED=0
	$(BIN)/python -m demo --course hallway --seed $(SEED)

train: $(READY) ## train the tiny model in an env; ENV=gym_cards/EZPoints UPDATES=3
	$(BIN)/python -m demo.train --env $(ENV) --updates $(UPDATES) --seed $(SEED)

# Bytecode is kept, whatever the environment says: tests start hundreds of processes that import the same modules.
test: export PYTHONDONTWRITEBYTECODE =

# Four workers, since many tests wait: two cores are busy then. A worker that crashes ends the run: pytest-xdist 3.8 hangs
# when it replaces one that tests are sent to in groups.
test: $(READY) $(if $(shell command -v npm 2>/dev/null),$(NODE)) ## the tests that need minutes: unit, integration, faults, k8s/
	$(BIN)/python -m pytest -n 4 --max-worker-restart=0 --no-loadscope-reorder -m "not demo and not soak and not compose and not peer"

study: $(READY) ## five algorithms and five seeds in lab/Chain: half an hour or more; resumes in runs/studies; STUDY=headline: 12 CPU-hours or so
	nice $(BIN)/overworld study studies/$(or $(STUDY),short).yaml jobs=2 page=docs/results

tutorial: $(READY) ## run docs/tutorial.md as it stands; PART=python, gymnasium or node: minutes
	$(BIN)/python scripts/tutorial.py $(PART)

test-compose: $(READY) ## the stack in containers: builds, trains, crashes, recovers; needs a Docker engine
	$(BIN)/python -m pytest -m compose tests/compose

test-openenv: $(READY) ## OpenEnv's own client and validator on our env server
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python -m pytest tests/integration/sdk/test_openenv.py

# ale-py is GPL, and moviepy, which RecordVideo needs, wants an older Pillow: both stay out of constraints.txt.
test-atari: .venv-atari/.ready ## an Atari game through every door, and a video of an episode
	.venv-atari/bin/python -m pytest tests/integration/sdk/test_atari.py

.venv-atari/.ready: constraints.txt VERSION sdk/pyproject.toml
	rm -rf .venv-atari
	$(PYTHON) -m venv .venv-atari
	grep -v '^pillow==' constraints.txt > .venv-atari/constraints.txt
	.venv-atari/bin/pip install --quiet --constraint .venv-atari/constraints.txt \
		ale-py==0.12.1 moviepy==2.2.1 pygame-ce pytest pytest-timeout pytest-xdist --editable 'sdk[gymnasium,host,openenv]'
	touch $@

test-demo: $(READY) ## the demo to its end: minutes
	$(BIN)/python -m pytest -m demo

# The oldest libraries that vlm and trainer promise to work with, under Python 3.12 where there is one. PyPI's torch for
# Linux brings CUDA along (5 GB on the disk); pip's own settings may name an index of builds for the CPU. Not covered: all
# other packages at their oldest, and a GPU.
OLDEST := .venv-oldest/.ready
OLDEST_PYTHON ?= $(shell for python in python3.12 ~/.pyenv/versions/3.12.*/bin/python $(PYTHON); do \
	$$python -c '' 2>/dev/null && echo $$python && break; done)
test-oldest: $(OLDEST) ## tests of vlm and trainer with torch 2.11, transformers 5.17 and, where it is found, Python 3.12
	.venv-oldest/bin/python -c 'import sys, torch, transformers; print(sys.version.split()[0], torch.__version__, transformers.__version__)'
	.venv-oldest/bin/python -m pytest tests/unit/vlm tests/unit/trainer tests/integration/trainer/test_ranks.py

$(OLDEST): constraints.txt VERSION $(PACKAGES:%=%/pyproject.toml)
	rm -rf .venv-oldest
	$(OLDEST_PYTHON) -m venv .venv-oldest
	grep -vE '^(torch|transformers|tokenizers|huggingface_hub|hf-xet|fsspec|setuptools)==' constraints.txt > .venv-oldest/constraints.txt
	printf 'torch==2.11.*\ntransformers==5.17.*\n' >> .venv-oldest/constraints.txt
	.venv-oldest/bin/pip install --quiet --constraint .venv-oldest/constraints.txt torch
	.venv-oldest/bin/pip install --quiet --constraint .venv-oldest/constraints.txt \
		--requirement requirements-dev.txt $(patsubst %,--editable '%',sdk vlm services/envserver services/trainer)
	touch $@

.PHONY: example-trl example-verifiers example-verl example-node-server clean-examples

# Other trainers live in environments of their own, with the versions that their requirements.txt and constraints.txt name;
# verl has all of its own, since it does not take the transformers of constraints.txt.
example-trl: .venv-trl/.ready ## TRL's GRPOTrainer plays on our env server with a tiny Gemma 3: minutes
	.venv-trl/bin/python examples/trl/train.py

example-verifiers: $(READY) .venv-verifiers/.ready ## verifiers' vf-eval, our env server and our policy server: minutes
	$(BIN)/python examples/verifiers/evaluate.py

example-verl: .venv-verl/.ready ## verl's agent loop on our env server, without a language model
	.venv-verl/bin/python examples/verl/play.py

example-node-server: $(NODE) ## an env server in JavaScript on 127.0.0.1:50051
	node $(NODE_SERVER)/server.js --allow-expert

$(NODE): $(NODE_SERVER)/package-lock.json
	npm ci --silent --prefix $(NODE_SERVER)

clean: clean-examples
clean-examples:
	rm -rf .venv-trl .venv-verifiers .venv-verl $(NODE_SERVER)/node_modules

.venv-verl/.ready: CONSTRAINTS := /dev/null
.venv-%/.ready: CONSTRAINTS := constraints.txt
.venv-%/.ready: examples/%/requirements.txt constraints.txt VERSION sdk/pyproject.toml services/envserver/pyproject.toml
	rm -rf .venv-$*
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --constraint $(CONSTRAINTS) --requirement $< --editable 'sdk[host]' --editable services/envserver
	touch $@

up: ## the stack in containers, until `make down`: Redis, env servers, policy server
	docker compose up --build --detach --wait

up-train: ## train in that stack, then evaluate; ENV=gym_cards/EZPoints UPDATES=20
	TRAIN_ENV=$(ENV) TRAIN_SETTINGS=configs/tiny/$(firstword $(subst /, ,$(ENV))).yaml TRAIN_RUN=$(subst /,-,$(ENV)) \
		TRAIN_ARGUMENTS="updates=$(UPDATES) seed=$(SEED)" docker compose up trainer evaluator

down: ## end that stack; its checkpoints stay
	docker compose --profile train down

dist: $(READY) ## wheels of all packages, in dist/
	rm -rf dist $(PACKAGES:%=%/build)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
		$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist $(PACKAGES:%=./%)
	rm -rf $(PACKAGES:%=%/build)

supply: $(READY) .venv-supply/.ready ## what images and wheels are made of: SBOMs in dist/sbom/, docs/licences.md
	$(BIN)/python scripts/supply.py .venv-supply

vulnerabilities: .venv-supply/.ready ## those known of the packages in locks/; asks PyPI
	for lock in locks/*.txt; do \
		.venv-supply/bin/pip-audit --require-hashes --disable-pip --progress-spinner off --requirement $$lock || exit 1; \
	done

.venv-supply/.ready: Makefile
	$(PYTHON) -m venv .venv-supply
	.venv-supply/bin/pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1 pip-licenses==5.5.5
	touch $@

check-simulators: $(READY) ## overworld check of the four simulators and of examples/own_env
	$(BIN)/python scripts/check_simulators

audit-simulators: $(READY) ## overworld audit of the same: writes docs/audits/
	$(BIN)/python scripts/audit_simulators

CHAOS_FAULTS ?= 50
chaos: $(READY) ## training while everything fails, against the same in peace: equal bytes; SEED=0, JSON=FILE; resumes in runs/chaos
	nice $(BIN)/python benchmarks/chaos.py --seed $(SEED) --faults $(CHAOS_FAULTS) $(if $(JSON),--json $(JSON))

soak: $(READY) ## long runs: leaks, the demo with three seeds, twice each, an hour of fuzzing, `make chaos` with 200 faults
	$(BIN)/python -m pytest -m soak
	FUZZ_SECONDS=900 $(BIN)/python -m pytest -s --show-capture=no tests/fuzz/test_wire.py
	$(MAKE) chaos CHAOS_FAULTS=200

fuzz: $(READY) .venv-atheris/.ready ## coverage-guided fuzzing of what reads foreign bytes; resumes in runs/fuzz; FUZZ_SECONDS=60 each
	PYTHONPATH=.venv-atheris nice $(BIN)/python -m tests.fuzz.guided --seconds $(or $(FUZZ_SECONDS),60)

# A folder on the path of .venv and no environment, since it needs all that is there. There are builds for Python 3.11 to 3.13.
.venv-atheris/.ready: $(READY)
	rm -rf .venv-atheris
	$(BIN)/pip install --quiet --target .venv-atheris atheris==3.0.0
	touch $@

soak-policy: $(READY) ## of these, the policy server's: 10,000 requests while adapters come, change and go; minutes
	$(BIN)/python -m pytest -m soak -s --show-capture=no tests/soak/test_policy.py

lint: $(READY) ## ruff, mypy, import-linter, buf, hadolint, and the generated code's freshness
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) benchmarks demo examples/*/*.py tests scripts/*.py
	$(BIN)/lint-imports
	$(BIN)/python scripts/lock.py --check
	cd proto && ../$(BIN)/buf lint && ../$(BIN)/buf breaking --against released.binpb
	$(BIN)/hadolint services/*/Dockerfile vlm/Dockerfile examples/*/Dockerfile sdk/overworld/scaffold/templates/*/Dockerfile
	scripts/proto --check

format: $(READY) ## let ruff put the code into form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: ## generate sdk/overworld/v1 from proto/
	scripts/proto

released-proto: $(READY) ## at a release: make proto/ the contract that later changes must not break
	cd proto && ../$(BIN)/buf build --exclude-source-info --output released.binpb

bench: bench-startup bench-transport bench-waiting bench-compression bench-wire bench-bridges bench-gym_cards bench-miniworld bench-alfworld bench-webshop bench-page bench-families bench-trainer bench-ranks ## all benchmarks; CHECK=1 fails below a target

branches: $(READY) ## 10,000 turns of recorded episodes of the four simulators, taken up exactly; resumes in runs/branches
	nice $(BIN)/python benchmarks/branches.py $(if $(JSON),--json $(JSON))

changes: $(READY) ## 1,000 changes of kept evaluations, each of which overworld verify must find; resumes in runs/changes
	nice $(BIN)/python benchmarks/changes.py

audit-learn: $(READY) ## five graded envs, told apart by `overworld audit --learn`; resumes in runs/audit-learn
	nice $(BIN)/python benchmarks/audit_learn.py $(if $(JSON),--json $(JSON))

diagnose-agents: $(READY) ## agents with one defect each, told apart by `overworld diagnose`; resumes in runs/diagnose-agents; RUNS=20
	nice $(BIN)/python benchmarks/diagnose_agents.py --count $(or $(RUNS),20) $(if $(JSON),--json $(JSON))

# As in the images: docs/scale.md, "Large answers over TCP".
bench-waiting: export LD_PRELOAD := libtcmalloc_minimal.so.4

bench-%: $(READY) ## one benchmark, e.g. bench-transport; CHECK=1, JSON=FILE
	$(BIN)/python benchmarks/$*.py $(if $(JSON),--json $(JSON))

clean: ## remove what these targets made, runs/ excepted
	rm -rf .venv .venv-atari .venv-proto .venv-openenv .venv-dm-env-rpc .venv-envpool .venv-oldest .venv-supply .venv-atheris .mypy_cache .ruff_cache .pytest_cache .hypothesis
