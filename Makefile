# Every target builds .venv by itself the first time and is quick afterwards.
VENV ?= .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready

# `make demo WEIGHTS=file` starts from trunk weights: MobileNetV2 under torchvision's names, .npz or .safetensors.
DEMO := runs/demo$(if $(WEIGHTS),_$(basename $(notdir $(WEIGHTS))))

.PHONY: demo test test-all lint bench docs environment clean

environment: $(READY)

# Python 3.12 where one runs (also one that pyenv keeps), else python3, which must be 3.11 or newer.
$(READY): requirements.txt
	@set -e; \
	for candidate in python3.12 $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12*/bin/python 2>/dev/null) python3; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then chosen="$$candidate"; break; fi; \
	done; \
	if [ -z "$$chosen" ]; then echo "ps_jax needs Python 3.11 or newer; none was found" >&2; exit 1; fi; \
	echo "building $(VENV) with $$chosen ($$("$$chosen" -V)); about two minutes, once"; \
	test -x $(PYTHON) || "$$chosen" -m venv $(VENV); \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt; \
	touch $(READY)

demo: $(READY)
	$(PYTHON) train.py --config configs/spnet_demo.py --workdir $(DEMO) $(if $(WEIGHTS),--config.weights=$(WEIGHTS))

test: $(READY)
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST_ARGS)

test-all: $(READY)
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(READY)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy ps_jax input_pipeline kernels benchmarks

# `make bench TORCH_PYTHON=.../python` times the same layers in PyTorch beside ours, in turns (benchmarks/speed.py).
bench: $(READY)
	$(PYTHON) -m benchmarks.convolutions
	$(PYTHON) -m benchmarks.speed $(if $(TORCH_PYTHON),--torch_python $(TORCH_PYTHON))

# The pages and the API reference, as HTML in docs/_build; warnings are errors.
docs: $(READY)
	$(PYTHON) -m sphinx -W --keep-going -q -b html docs docs/_build

clean:
	rm -rf $(VENV) .cache docs/_build
