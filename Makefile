# sfseg_ros: `make demo` and `make test` are the main commands; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

# The first Python that has wheels for everything; PYTHON=python3.12 chooses another.
PYTHON := $(shell for p in python3 python3.12 python3.11 python3.10; do \
	"$$p" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
VERSION := $(shell "$(PYTHON)" -c 'import sys; print("py%d.%d" % sys.version_info[:2])' 2>/dev/null)
# One environment per Python version, all below .venv/, so that a test with 3.10 keeps the environment of 3.12.
VENV := .venv/$(VERSION)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
STAMPS := $(VENV)/stamps

# Options of `make demo`: bag, video or folder; image topic, if the bag has several; folder for the result.
INPUT :=
TOPIC :=
OUTPUT := demo_output
MODEL :=
BACKEND := auto
ARGS :=
export INPUT TOPIC OUTPUT MODEL BACKEND

# These commands use the pinned rclpy; the one of a sourced ROS installation would precede it.
ifdef ROS_DISTRO
unexport PYTHONPATH AMENT_PREFIX_PATH LD_LIBRARY_PATH RMW_IMPLEMENTATION ROS_DISTRO
endif

.PHONY: help demo test test-runtime test-slow test-render zoo tables soak gpu lock lint format docs picture colcon pip-install clean environment
.DELETE_ON_ERROR:

help:
	@echo "make demo                      play the recorded drive through the node; prints the report's path"
	@echo "make demo INPUT=<path>         the same with your bag, video file or image folder (TOPIC=/a/topic to choose)"
	@echo "make test                      run all quick tests (downloads PyTorch and TensorRT-RTX)"
	@echo "make test-runtime              run the tests that need no PyTorch"
	@echo "make test-slow test-render     the tests that take minutes; the tests of the renderer (Python 3.11)"
	@echo "make tables zoo                compare every network with the papers' tables; train, export and run each (an hour)"
	@echo "make soak MINUTES=30           stress test: overload the node, mix in malformed messages, count every frame"
	@echo "make gpu                       run every GPU test and benchmark in ten minutes; writes JSON (benchmarks/README.md)"
	@echo "make lock                      lock requirements/*.in with hashes, after a change (ARGS=--upgrade: newest versions)"
	@echo "make lint format               ruff and mypy"
	@echo "make docs                      refresh the generated tables and build the documentation in build/docs"
	@echo "make colcon pip-install        install with colcon and with pip, without ROS, and try the result"
	@echo "make clean                     remove environments, builds and caches (not demo_output/)"
	@echo "PYTHON=python3.12 chooses the Python (3.10 to 3.12); here: $(PYTHON)"

TORCH = $(shell grep '^torch==' requirements/training.in)

# --- environments -----------------------------------------------------------------------------------------------------
# A stamp is written after pip has succeeded, so the next run continues an interrupted installation.
$(STAMPS)/venv:
	@if [ -z "$(VERSION)" ]; then \
	  echo "no Python 3.10, 3.11 or 3.12 found (PYTHON='$(PYTHON)'); on Debian/Ubuntu: sudo apt install python3 python3-venv" >&2; \
	  exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "PYTHON=$(PYTHON) is $(VERSION); Python 3.10, 3.11 or 3.12 is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing; on Debian/Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@echo "--- making the environment $(VENV)"
	@"$(PYTHON)" -m venv --clear "$(VENV)"
	@mkdir -p "$(STAMPS)" && touch "$@"

# requirements/*.in lists the chosen versions; requirements/*.txt, made by `make lock`, locks them and all their dependencies
# by hash. --no-deps: a lock is complete, except for the packages that it leaves out on purpose.
$(STAMPS)/%: requirements/%.txt | $(STAMPS)/venv
	@echo "--- installing $< into $(VENV)"
	@$(PIP) install --progress-bar on --no-deps --require-hashes -r $<
	@! grep -q '^# needs torch' $< || $(PIP) install --progress-bar on $(TORCH)
	@touch "$@"

# Compile the routine for the CPU; without a C compiler this prints a message, and the slower routine is used.
KERNELS := sfseg_ros/kernels
$(KERNELS)/_cpu_tail.abi3.so: $(KERNELS)/cpu_tail.c $(KERNELS)/cpu_tail_body.h setup.py | $(STAMPS)/runtime
	@$(PY) setup.py --quiet build_ext --inplace

environment: $(STAMPS)/runtime $(KERNELS)/_cpu_tail.abi3.so

# --- the two commands -------------------------------------------------------------------------------------------------
demo: environment
	@$(PY) -m sfseg_ros.tools demo --output "$$OUTPUT" --backend "$$BACKEND" \
	  $${MODEL:+--model "$$MODEL"} $${INPUT:+--input "$$INPUT"} $${TOPIC:+--topic "$$TOPIC"} $(ARGS)

test: environment $(STAMPS)/tensorrt
	$(PY) -m pytest $(ARGS)

test-runtime: environment $(STAMPS)/test
	$(PY) -m pytest --ignore=test/training $(ARGS)

test-slow: environment $(STAMPS)/tensorrt
	$(PY) -m pytest -m slow $(ARGS)

# Blender's wheel needs an older numpy, so it has its own environment, without what the other tests' fixtures need.
test-render:
	@$(MAKE) --no-print-directory VENV=$(VENV)-render $(VENV)-render/stamps/render
	$(VENV)-render/bin/python -m pytest -m render --confcutdir=test/training/rendered_town test/training/rendered_town $(ARGS)

# Train and export every network of training/networks, compare it with torch, build its engine. ARGS="-k eseg" selects some.
zoo: $(STAMPS)/tensorrt
	$(PY) -m pytest -m "slow or not slow" test/training/test_every_network.py $(ARGS)

tables: $(STAMPS)/training
	@$(PY) -m training.papers.tables

# One camera on `image`, or CAMERAS="front rear left right". Exit status 1 if a frame is unaccounted for or something leaks.
MINUTES := 30
CAMERAS :=
soak: $(STAMPS)/runtime
	$(PY) -m benchmarks.soak --minutes $(MINUTES) --cameras $(CAMERAS) --output build/soak/soak.json $(ARGS)

# PYTHON must have torch: a GPU machine without network cannot make an environment. ARGS=--rehearse needs no GPU.
gpu:
	@"$(PYTHON)" -m benchmarks.gpu $(ARGS)

# Run this after a change of requirements/*.in, or to update the versions that they leave open; then run `make test` and
# commit both files. Not locked: torch, whose wheel and NVIDIA dependencies depend on the machine, and OpenVINO's telemetry,
# which OpenVINO runs without.
UNLOCKED := openvino-telemetry torch triton cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-runtime nvidia-cudnn-cu13 \
	nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
	nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
lock: | $(STAMPS)/venv
	@$(PIP) install --quiet uv==0.13.9
	@for file in requirements/*.in; do \
	  txt="$${file%.in}.txt"; \
	  echo "--- $$txt"; \
	  $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-annotate \
	    --no-header $(UNLOCKED:%=--no-emit-package %) $(ARGS) "$$file" --output-file "$$txt"; \
	  case "$$file" in */training.in|*/tensorrt.in) sed -i '1i # needs torch' "$$txt";; esac; \
	done

# --- for developers ---------------------------------------------------------------------------------------------------
lint: $(STAMPS)/lint
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(STAMPS)/lint
	$(PY) -m ruff check --fix-only --quiet .
	$(PY) -m ruff format .

# colcon and pip-install use their own environments, so that they try the installed package and not the source tree.
colcon: $(STAMPS)/runtime
	@$(MAKE) --no-print-directory VENV=$(VENV)-colcon $(VENV)-colcon/stamps/colcon
	rm -rf build/colcon
	$(VENV)-colcon/bin/python -m colcon --log-base build/colcon/log build \
	  --base-paths . --build-base build/colcon/build --install-base build/colcon/install
	@python="$$PWD/$(PY)"; set +u; . build/colcon/install/setup.bash; cd build/colcon; \
	  echo "--- the installed executable, away from the source tree"; \
	  "$$python" install/sfseg_ros/lib/sfseg_ros/sfseg demo --help > /dev/null; \
	  "$$python" -c 'import sfseg_ros; print(sfseg_ros.__file__)' | grep install/sfseg_ros; \
	  test -f "$$AMENT_PREFIX_PATH/share/sfseg_ros/config/fastdds_large_images.xml"

# After a plain `pip install .`, help works and each command names the extra that it needs; with the extra `demo`, the demo runs.
pip-install:
	rm -rf $(VENV)-pip build/lib build/bdist.* build/pip
	@$(MAKE) --no-print-directory VENV=$(VENV)-pip $(VENV)-pip/stamps/venv
	$(VENV)-pip/bin/python -m pip --disable-pip-version-check install .
	@echo "--- a plain installation, away from the source tree"
	@bin="$$PWD/$(VENV)-pip/bin"; mkdir -p build/pip; cd build/pip; "$$bin/sfseg" --help | grep 'usage: sfseg'; \
	  for words in "segment m p -o o" demo "engine list"; do \
	    if "$$bin/sfseg" $$words 2> error; then echo "sfseg $$words: expected an error" >&2; exit 1; fi; \
	    cat error; [ "$$(wc -l < error)" = 1 ] && grep -q "pip install 'SOURCE_TREE\[" error; done
	@$(MAKE) --no-print-directory VENV=$(VENV)-pip $(VENV)-pip/stamps/runtime
	$(VENV)-pip/bin/python -m pip --disable-pip-version-check install '.[demo]'
	@echo "--- the demo, away from the source tree"
	@drive="$$PWD/test/data/town_drive"; bin="$$PWD/$(VENV)-pip/bin"; cd build/pip; \
	  "$$bin/sfseg" demo --input "$$drive" --max-seconds 2 --output out $${MODEL:+--model "$$MODEL"}

# Refresh the generated tables (topics, parameters, commands, measurements), then build the site in build/docs.
docs: $(STAMPS)/docs
	$(PY) -m sfseg_ros.nodes.parameter_text > config/segmentation.yaml
	$(PY) -m docs.generate
	$(PY) -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "$(CURDIR)/build/docs/index.html"

# The animated picture of the README, from the recorded drive.
picture: $(STAMPS)/runtime
	$(PY) -m docs.picture

clean:
	rm -f sfseg_ros/kernels/*.so
	rm -rf .venv build install log dist .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
