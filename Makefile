# Verbs for people and for CI. Everything runs inside .venv, which `make setup` makes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PROTOS := $(wildcard protos/clozerec/v1/*.proto)
PUBLIC := protos/clozerec/v1/filter.proto protos/clozerec/v1/recommender.proto
TOOLS  ?= .venv-tools
REPEAT ?= 1
MINUTES ?= 30
REQUESTS ?= 1000000
SITE    = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

# Tools with dependencies of their own live apart from ours.
tool = test -d $(TOOLS)/$(1) || { $(PYTHON) -m venv $(TOOLS)/$(1) && $(TOOLS)/$(1)/bin/pip install -qq $(1); }

.DEFAULT_GOAL := help
.PHONY: help setup demo proto proto-check fmt lint types test test-thorough test-all bench images pin-images manifests test-faults bench-load audit sbom clean

help:            ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

setup: $(VENV)/.installed  ## Install everything, pinned, into .venv

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV), about two minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup      ## Train on MovieLens-100K, serve, ask each kind of query
	$(BIN)/clozerec demo

proto: setup     ## Regenerate protos/**/*_pb2*
	$(BIN)/python -m grpc_tools.protoc -I protos -I $(SITE) --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=protos --pyi_out=protos --grpc_python_out=protos --mypy_grpc_out=protos $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -I protos -I $(SITE) \
	  --include_source_info --descriptor_set_out=protos/clozerec/v1/described.binpb $(PUBLIC)

proto-check: setup  ## Lint the protos; fail if the generated code is stale or a change breaks callers
	@mkdir -p build && rm -rf build/protos && mkdir -p build/protos
	$(BIN)/python -m grpc_tools.protoc -I protos -I $(SITE) --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	  --python_out=build/protos --pyi_out=build/protos --grpc_python_out=build/protos --mypy_grpc_out=build/protos \
	  --include_imports --include_source_info --descriptor_set_out=build/clozerec.binpb $(PROTOS)
	$(BIN)/python -m grpc_tools.protoc -I protos -I $(SITE) \
	  --include_source_info --descriptor_set_out=build/protos/clozerec/v1/described.binpb $(PUBLIC)
	@for made in build/protos/clozerec/v1/*; do cmp "$$made" "protos/clozerec/v1/$$(basename $$made)" \
	  || { echo "generated code is stale: run make proto"; exit 1; }; done
	$(BIN)/buf lint build/clozerec.binpb --path clozerec
	$(BIN)/buf breaking build/clozerec.binpb --path clozerec --against tests/contract/clozerec-v1.binpb

fmt: setup       ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: setup proto-check  ## ruff, import contracts, protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup     ## mypy strict
	$(BIN)/mypy

test: setup      ## Every test that CI runs
	$(BIN)/pytest

test-thorough: setup  ## The gateway against a slow model of its meaning: 5,000 random steps
	$(BIN)/pytest tests/property/test_gateway_model.py --hypothesis-profile thorough

test-all: lint types test  ## What CI runs

bench: setup     ## Benchmarks; each prints ratios against a named reference
	@for file in bench/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

images:          ## Build the images; needs an engine
	for role in gateway encoder retriever trainer; do \
	  docker build --file deploy/docker/$$role.Dockerfile --tag clozerec/$$role:0.1.0 . || exit 1; done

pin-images: setup  ## Write the digests of images into Dockerfiles and manifests, as their registry states them
	$(BIN)/python deploy/pin_images.py

manifests: setup  ## Every combination of the manifests: build, schema, our own checks, checkov
	$(BIN)/pytest tests/deploy
	$(call tool,checkov)
	rm -rf build/manifests && cd tests && ../$(BIN)/python -m deploy.manifests ../build/manifests
	$(TOOLS)/checkov/bin/checkov --directory build/manifests --framework kubernetes --skip-download --quiet --compact \
	  --config-file deploy/.checkov.yaml

test-faults: setup  ## Break real processes under load: make test-faults REPEAT=20
	cd tests && ../$(BIN)/python -m faults --repeat $(REPEAT)

bench-load: setup  ## The soak, a fuzzer, the price of TLS and the like: make bench-load MINUTES=30 REQUESTS=1000000
	cd tests && ../$(BIN)/python -m faults --soak $(MINUTES)
	cd tests && ../$(BIN)/python -m faults --fuzz $(REQUESTS)
	cd tests && ../$(BIN)/python -m faults --overhead

audit: setup     ## Known vulnerabilities of the installed versions (asks the advisory database)
	$(call tool,pip-audit)
	$(TOOLS)/pip-audit/bin/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

sbom: setup      ## build/sbom.json: what is installed, as CycloneDX
	$(call tool,cyclonedx-bom)
	@mkdir -p build
	$(TOOLS)/cyclonedx-bom/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-file build/sbom.json

clean:           ## Remove what was made, the demo's data and bundles included
	rm -rf build dist demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis
