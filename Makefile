# `make help` lists the verbs. Everything lives in .venv; nothing else on the machine is changed.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tested with this one. An ordinary index gives its usual build for your machine (CUDA on Linux); a folder of wheels
# that pip is configured to search (find-links), for instance with a CPU build, is searched too.
TORCH ?= torch==2.13.0
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$$PIP_FIND_LINKS")
export UV_LINK_MODE ?= copy
# Bytecode saves two thirds of the import time of every pipeline step.
unexport PYTHONDONTWRITEBYTECODE

# Folder with CTs for `make demo`; empty: the versioned dataset (real CTs and phantoms).
DATA ?=
OUT ?= runs/demo
CONFIG ?= configs/smoke.yaml

.PHONY: help install data demo test test-fast test-containers test-cluster lint format compile lock lock-images \
  images clean fuzz fuzz-again pretrained bench-speed bench-quality bench-folds bench-patients reference tour \
  screenshots serve-assets release
SECONDS_TO_FUZZ ?= 300
# What a folder's CTs may be used for, so that they may become references: LICENCE="CC BY 4.0" SOURCE=doi:...
TERMS = $(if $(LICENCE),--licence "$(LICENCE)") $(if $(SOURCE),--source "$(SOURCE)")
# Tests run in processes side by side, a thread each, one more than cores: some wait for servers, the fast ones do not.
CORES := $(shell nproc 2>/dev/null || echo 2)
WORKERS ?= $(shell echo $$(( $(CORES) > 3 ? 4 : $(CORES) + 1 )))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --durations=30 --numprocesses $(WORKERS) --dist loadfile \
  --no-loadscope-reorder

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv with everything, from the hash-locked list

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 11), (3, 12)) else \
	  "AXON needs Python 3.11 or 3.12, this is %d.%d; try: make PYTHON=python3.11" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8,<1'
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode '$(TORCH)'
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode --no-deps --require-hashes -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip check
	@touch $@

data: install ## build the versioned dataset, bit for bit what data.dvc names, and publish it to the DVC remote
	$(BIN)/axon dataset build data

demo: install ## run the whole pipeline on real input: make demo, or make demo DATA=folder-of-CTs
	$(if $(DATA),,$(BIN)/axon dataset build data)
	$(BIN)/python -m pipelines run --config $(CONFIG) --output $(OUT) \
	  $(if $(DATA),--folder "$(DATA)" $(TERMS),--revision HEAD)

pretrained: OUT = runs/quality
pretrained: bench-quality ## put the quality benchmark's model into the package: make pretrained DATA=folder-of-CTs
	$(BIN)/python benchmarks/pretrain.py $(OUT) --command 'make pretrained DATA=FOLDER'

test: install $(if $(ROOM),,lint) ## lint, then all tests; ROOM=geometry for the tests of one room alone
	$(PYTEST) $(if $(ROOM),tests/$(ROOM))

test-fast: install ## the tests that start no server and no process beyond the reader's own child: about a minute
	$(PYTEST) -m 'not slow and not containers and not cluster' --numprocesses $(CORES)

fuzz-again: install ## as many inputs from the same seed, over tests/fuzz/corpus: about a minute; needs atheris
	rm -rf runs/fuzz-again && mkdir -p runs/fuzz-again
	$(BIN)/python -m tests.fuzz.fuzz_dicom runs/fuzz-again tests/fuzz/corpus -runs=3000 -seed=1 -rss_limit_mb=4096 \
	  -timeout=60

test-containers: install ## the pipeline in its images on a real engine, with S3 and MLflow servers: 10 to 20 minutes
	$(BIN)/python -m pytest -q --durations=0 -m containers tests/containers

test-cluster: install ## deploy/ on a real Kubernetes control plane, built from Debian's source the first time
	$(BIN)/python -m pytest -q --durations=10 -m cluster tests/cluster

bench-speed: install ## time the parts beside other libraries, all in one run (benchmarks/README.md)
	@mkdir -p runs
	$(BIN)/python -m benchmarks.speed --json runs/speed.json

bench-quality: OUT = runs/quality
bench-quality: CONFIG = configs/bench.yaml
bench-quality: install ## how good the volumes are beside the baselines: make bench-quality DATA=folder-of-CTs
	$(BIN)/python -m benchmarks.quality --config $(CONFIG) $(if $(DATA),--data "$(DATA)") --out $(OUT) $(TERMS)

bench-folds: OUT = runs/folds
bench-patients: OUT = runs/patients
bench-folds bench-patients: CONFIG = configs/bench.yaml
bench-folds: install ## AXON beside published methods over folds and seeds, job by job: ARGS="--list", ARGS="--jobs 1"
bench-patients: install ## the same by the number of training patients; MORE=folder-of-CTs that only train
bench-folds bench-patients:
	$(BIN)/python -m benchmarks.folds $(@:bench-%=%) --config $(CONFIG) $(if $(DATA),--data "$(DATA)") \
	  $(if $(MORE),--more "$(MORE)") --out $(OUT) $(ARGS)

fuzz: install ## let atheris look for inputs that crash a reader, SECONDS_TO_FUZZ=300; needs atheris
	mkdir -p runs/fuzz
	$(BIN)/python -m tests.fuzz.fuzz_dicom runs/fuzz -max_total_time=$(SECONDS_TO_FUZZ) -rss_limit_mb=4096 -timeout=20

lint: install ## ruff, mypy, the import contract, and whether the compiled pipeline is up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy & typed=$$!; $(BIN)/lint-imports && $(BIN)/python -m pipelines compile --check; others=$$?; \
	  wait $$typed && exit $$others

format: install ## let ruff lay out the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

compile: install ## write pipelines/axon_pipeline.yaml, the pipeline without images to pull
	$(BIN)/python -m pipelines compile

reference: install ## write docs/reference from the code
	$(BIN)/python docs/generate.py

tour: install ## run docs/tour.ipynb with the package's model and keep its outputs; TOUR_MODEL=folder for another
	$(BIN)/python docs/tour.py $(if $(TOUR_MODEL),--model "$(TOUR_MODEL)")

screenshots: install ## take docs/screenshots again with the model of the package; needs chromium and chromedriver
	$(BIN)/python -m docs.screenshots

# Any Docker-compatible engine: make images DOCKER=podman
export DOCKER ?= docker
TARGETS ?= cpu cuda
images: install ## build the images of containers/images.yaml; TARGETS=cpu for one
	$(BIN)/python containers/build.py $(TARGETS)

# torch and what only its CUDA build needs are installed apart: which build fits depends on the machine.
TORCH_PACKAGES := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
  nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
  nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

lock: ## resolve requirements.lock again
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --quiet $(addprefix --no-emit-package ,$(TORCH_PACKAGES)) \
	  --custom-compile-command 'make lock' --constraint constraints.txt --output-file requirements.lock

# A user of the package needs no node: what this makes is in git. The licence of NiiVue itself is not in its npm
# package.
serve-assets: ## take the page's viewer from npm again, at the version of src/axon/serve/package-lock.json
	cd src/axon/serve && npm ci --ignore-scripts --no-audit --no-fund
	cd src/axon/serve && cp node_modules/@niivue/niivue/dist/niivue.umd.js static/vendor/
	cd src/axon/serve && for file in $$(find node_modules -iname 'license*' -not -path '*/@rollup/*' | sort); do \
	  printf '\n=== %s\n\n' "$${file#node_modules/}"; cat "$$file"; done > static/vendor/LICENSES-bundled.txt

IMAGE_LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-header --no-emit-index-url \
  --no-emit-find-links --python-version 3.11 --python-platform x86_64-manylinux_2_28
NOT_TORCH := $$(sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p' containers/requirements.lock)

lock-images: ## resolve the images' lock files again, with the versions of constraints.txt
	$(IMAGE_LOCK) pyproject.toml --extra pipeline --extra serve --constraint constraints.txt \
	  $(addprefix --no-emit-package ,$(TORCH_PACKAGES)) --output-file containers/requirements.lock
	echo '$(TORCH)+cpu' | $(IMAGE_LOCK) - $(NOT_TORCH) --constraint containers/requirements.lock \
	  --find-links "$(or $(UV_FIND_LINKS),https://download.pytorch.org/whl/cpu/torch/)" \
	  --output-file containers/requirements-cpu.lock
	echo '$(TORCH)' | UV_FIND_LINKS= $(IMAGE_LOCK) - $(NOT_TORCH) \
	  --constraint containers/requirements.lock --output-file containers/requirements-cuda.lock
	printf 'cyclonedx-bom\nhatchling\nuv\n' | $(IMAGE_LOCK) - --output-file containers/requirements-build.lock

release: install ## wheel, sdist, MONAI bundle, packages (CycloneDX) and checksums into dist, at a tag vVERSION
	@version="v$$($(BIN)/python -c 'import axon; print(axon.__version__)')"; \
	  test "$$version" = "$$(git describe --exact-match --tags 2>/dev/null)" \
	  || { echo "the checkout is not at the tag of its version" >&2; exit 1; }
	@test -z "$$(git status --porcelain)" || { echo "the checkout has changes" >&2; exit 1; }
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/axon model export axon-small dist/axon-small-monai --format monai
	cd dist && $(CURDIR)/$(BIN)/python -m zipfile -c axon-small-monai.zip axon-small-monai && rm -r axon-small-monai
	$(BIN)/uv tool run --from cyclonedx-bom cyclonedx-py environment $(BIN)/python --output-reproducible \
	  --output-file dist/sbom.cdx.json
	cd dist && sha256sum * > SHA256SUMS

clean: ## remove .venv and every run
	rm -rf $(VENV) runs dist
