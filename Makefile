# Everything one does with Copyist. Needs Python 3.11 or later and make; the rest is installed into .venv/.
#
#   make serve PORT=8000 HOST=127.0.0.1      the service, from the default install (no PyTorch)
#   make test                                everything a change must pass
#   make train PRESET=prose DATA=books/ OUT=runs/mine MINUTES=60
#   make export CKPT=runs/mine BUNDLE=service/bundles/mine

PYTHON  ?= $(shell command -v python3.11 || command -v python3)
HOST    ?= 127.0.0.1
PORT    ?= 8000
WORKERS ?= 2
PYTEST_ARGS ?=

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
SERVE := .venv/serve
DEV   := .venv/dev
LOWEST := .venv/lowest
MADE_FROM := pyproject.toml $(wildcard service/engine/kernel/*.[ch] service/engine/kernel/*.inc)
PIP   := -m pip install --disable-pip-version-check --quiet --quiet

.DEFAULT_GOAL := help
.NOTPARALLEL:

.PHONY: help
help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# An environment is made anew from scratch, and only when what it is made from has changed: a second start asks pip nothing.
$(SERVE)/.installed: $(MADE_FROM)
	@echo "installing the service into $(SERVE) (about 285 MB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Copyist needs Python 3.11 or later; set PYTHON=")'
	@rm -rf $(SERVE) && $(PYTHON) -m venv $(SERVE)
	@$(SERVE)/bin/python $(PIP) --editable .
	@touch $@

$(DEV)/.installed: $(MADE_FROM)
	@echo "installing the training stack and the tools into $(DEV) (about 1.7 GB)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Copyist needs Python 3.11 or later; set PYTHON=")'
	@rm -rf $(DEV) && $(PYTHON) -m venv $(DEV)
	@$(DEV)/bin/python $(PIP) --editable '.[train,dev]'
	@touch $@

.PHONY: serve
serve: $(SERVE)/.installed ## run the service (HOST=, PORT=)
	@COPYIST_HOST=$(HOST) COPYIST_PORT=$(PORT) exec $(SERVE)/bin/python -m service

.PHONY: test
test: $(SERVE)/.installed check peers ## lint, types, arrows and every test this machine can run
	COPYIST_SERVE_PYTHON=$(CURDIR)/$(SERVE)/bin/python OMP_NUM_THREADS=1 \
	    $(DEV)/bin/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

# Each direct dependency of the service and of its extras in the lowest version that pyproject.toml allows. What the tests
# need besides comes from the development environment, whose packages stand behind these on the path.
$(LOWEST)/.installed: $(DEV)/.installed .ci/lowest.py
	@echo "installing the lowest versions of the service's dependencies into $(LOWEST) (about 300 MB)"
	@rm -rf $(LOWEST) && $(PYTHON) -m venv $(LOWEST)
	@$(PYTHON) .ci/lowest.py redis otel > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python $(PIP) --constraint $(LOWEST)/constraints.txt --editable '.[redis,otel]'
	@path='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	    $(DEV)/bin/python -c "$$path" > "$$($(LOWEST)/bin/python -c "$$path")/tools_of_the_tests.pth"
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST)/.installed ## the service's tests, and short ones of the rest, with the lowest versions it may have
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist loadgroup tests/service $(PYTEST_ARGS)
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --fast tests/model tests/export $(PYTEST_ARGS)

.PHONY: check
check: $(DEV)/.installed ## lint, types, arrows and container files, without the tests
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/hadolint docker/serve.Dockerfile
	$(DEV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml

# What the tests hold the service to besides Python: a browser, Redis, Prometheus' linter, OpenAI's JavaScript client and
# lm-evaluation-harness. What cannot be had here is left out: its tests skip and say so.
PROGRAMS := chromium:chromium redis-server:redis-server promtool:prometheus
.PHONY: peers
peers: $(DEV)/.peers $(DEV)/.docs
	@missing=$$(for one in $(PROGRAMS); do command -v $${one%:*} >/dev/null || printf '%s ' $${one#*:}; done); \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing for the tests: $$missing"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq \
	        --no-install-recommends $$missing fonts-dejavu-core >/dev/null; } || missing=; \
	fi; \
	for one in $(PROGRAMS); do \
	    command -v $${one%:*} >/dev/null || echo "no $${one%:*} here (Debian: $${one#*:}): its tests will skip"; done

$(DEV)/.peers: $(DEV)/.installed tests/service/contract/clients/package.json
	@$(DEV)/bin/python $(PIP) --editable '.[eval]' || echo "no lm-evaluation-harness here: its test will skip"
	@npm install --silent --no-package-lock --prefix tests/service/contract/clients || \
	    echo "no JavaScript client of OpenAI's here: its test will skip"
	@touch $@

$(DEV)/.docs: $(DEV)/.installed
	@$(DEV)/bin/python $(PIP) --editable '.[docs]' || echo "no Sphinx here: the test of the documentation's site will skip"
	@touch $@

.PHONY: docs
docs: $(DEV)/.docs ## the documentation as a static site in build/docs; a broken link fails
	$(DEV)/bin/python -m sphinx -W --keep-going --quiet -c docs -b html . build/docs
	@echo "open build/docs/index.html"

.PHONY: train
train: $(DEV)/.installed ## train a model (PRESET=, DATA=, OUT=, MINUTES=, ARGS=)
	@: $(if $(and $(PRESET),$(DATA),$(OUT)),,$(error say PRESET=, DATA= and OUT=))
	$(DEV)/bin/python -m model train $(PRESET) --data $(DATA) --out $(OUT) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

.PHONY: export
export: $(DEV)/.installed ## turn a checkpoint into a bundle (CKPT=, BUNDLE=, ARGS=)
	@: $(if $(and $(CKPT),$(BUNDLE)),,$(error say CKPT= and BUNDLE=))
	$(DEV)/bin/python -m export $(CKPT) $(BUNDLE) $(ARGS)

.PHONY: bench
bench: $(DEV)/.installed ## the engine beside its rivals and the service end to end, about ten quiet minutes (ARGS=--quick)
	@$(DEV)/bin/python -m bench $(ARGS)

.PHONY: bench-http
bench-http: $(DEV)/.installed ## what HTTP costs per streamed character, and the first character after a prompt
	@$(DEV)/bin/python -m bench http $(ARGS)

.PHONY: bench-cores
bench-cores: $(DEV)/.installed ## what several cores are best used for: threads, processes, or ONNX Runtime's own pool; six minutes
	@$(DEV)/bin/python -m bench cores $(ARGS)

.PHONY: bench-writing
bench-writing: $(DEV)/.installed ## handwriting of given texts: legibility, endings, speed (DATA=strokes.npz)
	@: $(if $(DATA),,$(error say DATA=, strokes with texts))
	@$(DEV)/bin/python -m bench writing --data $(DATA) $(ARGS)

.PHONY: bench-train
bench-train: $(DEV)/.installed ## training speed against eager autograd and torch.nn.LSTM
	OMP_NUM_THREADS=1 $(DEV)/bin/python -m model bench $(ARGS)

# For a machine with a GPU and a PyTorch of its own (GPU_PYTHON): nothing is installed. Weights leave in pieces of 15 MB;
# `cat best.safetensors.part-* > best.safetensors` puts them together again.
GPU_PYTHON ?= python3
.PHONY: gpu-run
gpu-run: ## check, measure, train and evaluate on a GPU in MINUTES= (DATA=, OUT=, PRESET=ptb)
	@: $(if $(and $(DATA),$(OUT),$(MINUTES)),,$(error say DATA=, OUT= and MINUTES=, more than 5))
	$(GPU_PYTHON) -m model selfcheck
	$(GPU_PYTHON) -m model bench $(BENCH_ARGS)
	$(GPU_PYTHON) -m model train $(or $(PRESET),ptb) --data $(DATA) --out $(OUT) --minutes $$(($(MINUTES) - 5)) $(ARGS)
	$(GPU_PYTHON) -m model evaluate $(OUT) --data $(DATA) | tee $(OUT)/test.json
	split -b 15000000 -d $(OUT)/best.safetensors $(OUT)/best.safetensors.part-

.PHONY: docker
docker: ## build the serving image with the engine that DOCKER and DOCKER_HOST name
	$(or $(DOCKER),docker) build --network host -f docker/serve.Dockerfile -t copyist:$(VERSION) -t copyist .

.PHONY: docker-test
docker-test: $(DEV)/.installed ## build the image, run it locked down, stream through it, stop it
	$(DEV)/bin/python -m pytest tests/test_docker.py -v

.PHONY: clean
clean: ## remove environments, caches and build output; never runs or bundles
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
