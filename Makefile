# The daily commands. CI runs the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip
CONSTRAINTS := -c requirements/constraints.txt
PROTOC := $(BIN)/python -m grpc_tools.protoc -I.
export PIP_DISABLE_PIP_VERSION_CHECK := 1

CHAOS := tests/chaos tests/services/test_filters.py
PYTEST := $(BIN)/python -m pytest
.PHONY: help setup setup-tools setup-dev demo test test-fast lint format proto check-proto artwork gallery train-demo bench-encoder bench-stores chaos fuzz clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.runtime ## Install all four services and the command line into .venv

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Wentu needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --upgrade "pip>=25.1"
	touch $@

$(VENV)/.runtime: $(VENV)/.python pyproject.toml requirements/constraints.txt requirements/cn-clip.txt
	scripts/install-torch.sh $(PIP)
	$(PIP) install -q $(CONSTRAINTS) -e '.[all]'
	$(PIP) install -q --no-deps -r requirements/cn-clip.txt
	touch $@

setup-tools: $(VENV)/.tools ## Install what the linters and the unit tests need too

$(VENV)/.tools: $(VENV)/.runtime
	$(PIP) install -q $(CONSTRAINTS) --group dev
	touch $@

setup-dev: $(VENV)/.dev ## Install what all tests need too, servers and system packages included

$(VENV)/.dev: $(VENV)/.tools requirements/servers.txt
	$(PIP) install -q --no-deps -r requirements/servers.txt
	scripts/install-mariadb.sh
	touch $@

demo: setup ## A working search: start all services, import the gallery, search it, stop [KEEP=1: stay up]
	demo/run.sh $(BIN)

test: setup-dev lint ## The whole suite, on embedded stores and on real servers
	scripts/test.sh $(BIN)

test-fast: lint ## Linters and unit tests: no process, no server, no system package
	$(PYTEST) tests/unit

lint: setup-tools check-proto ## Types, style, the contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	scripts/check-breaking.sh $(BIN)

format: setup-tools ## Put code and contract into their standard form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format -w

proto: setup-tools ## Generate the code of the contract
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PROTOC) --python_out=. --mypy_out=quiet:. protos/*.proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(PROTOC) --grpc_python_out=. --mypy_grpc_out=quiet:. \
	    $$(grep -l '^service ' protos/*.proto)

check-proto: proto
	git diff --exit-code -- 'protos/*_pb2*' # generated code differs from the contract: commit the output of make proto

chaos: setup-dev ## The long forms: 100 kills in 2,000 images, 1,000 images re-embedded, 10,000 filters [SEED=N, TESTS=FILES]
	WENTU_TEST_KILLS=100 WENTU_TEST_IMAGES=2000 WENTU_TEST_REEMBEDDED=1000 WENTU_TEST_FILTERS=10000 \
	WENTU_TEST_SEQUENCES=6 WENTU_TEST_PAUSE_SECONDS=20 $(if $(SEED),WENTU_TEST_SEED=$(SEED)) \
	    $(PYTEST) -s $(or $(TESTS),$(CHAOS))

fuzz: setup-dev ## 2,000 hostile calls of every method, on both pairs of stores [EXAMPLES=N, SEED=N, FUZZ_JSON=FILE]
	WENTU_TEST_FUZZ_EXAMPLES=$(or $(EXAMPLES),2000) $(if $(SEED),WENTU_TEST_SEED=$(SEED)) \
	    $(PYTEST) -s tests/system/test_fuzz.py

bench-encoder: setup-dev ## The encoder beside cn_clip's loop and the bare engine [JSON=FILE, MODELS="RN50 ..."]
	$(BIN)/python -m bench.encoder $(if $(MODELS),--models $(MODELS)) $(if $(JSON),--json $(JSON))

bench-stores: setup-dev ## Retriever and image store beside pymilvus and PyMySQL [JSON=FILE, VECTORS=N, BLOBS=N]
	$(BIN)/python -m bench.stores $(if $(JSON),--json $(JSON)) $(if $(VECTORS),--vectors $(VECTORS)) \
	    $(if $(BLOBS),--blobs $(BLOBS))

artwork:
	npm install --prefix demo --no-audit --no-fund --no-package-lock

gallery: setup-dev artwork ## Draw the demo's gallery
	$(BIN)/python -m demo.gallery

# With these the C library keeps large blocks instead of returning them at each step, which saves a third of the time.
TRAIN := MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=2000000000 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m
train-demo: setup-dev artwork ## Train the demo model (hours)
	$(PIP) install -q --group train
	$(TRAIN) demo.train_images --steps 4500
	$(TRAIN) demo.train_images --steps 1600 --init build/images --lr 8e-4 --name-share 0.55 --focus-share 0.6 --seed 20261
	$(TRAIN) demo.train_words --init build/images

clean: ## Remove the environment and all that the commands made
	rm -rf $(VENV) .demo build demo/node_modules *.egg-info
