# One command each, on a bare machine with Python >= 3.11, make and pip.
#   make demo      train, evaluate and ask an MMFuser model on real pictures (runs/demo/)
#   make test      lint, type check and all tests
#   make torture   kill, damage and move a run at random; it must end with the bits of one left alone (runs/torture/)
#   make ablate    the demo's recipe with the fuser off and on, over three seeds (runs/ablate/)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

.PHONY: demo test torture ablate lint clean

$(VENV)/.pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.demo: pyproject.toml | $(VENV)/.pip
	@echo "Installing JAX and what the demo needs; this downloads a few hundred MB once."
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.pip
	@echo "Installing JAX and what the tests need; this downloads a few hundred MB once."
	$(BIN)/python -m pip install --quiet --editable '.[demo,data,test]'
	touch $@

demo: $(VENV)/.demo
	$(BIN)/python launch/train.py --config=configs/easy_vqa.py --workdir=$(DEMO)
	$(BIN)/python launch/chat.py --model=$(DEMO) \
	  --image="$$($(BIN)/python -c 'import easy_vqa; print(easy_vqa.get_test_image_paths()[0])')" \
	  --prompt="what color is the shape?" --prompt="what shape is in the image?" --prompt="is there a red shape?"
	@echo "Look at $(DEMO): eval.json, curves.png, predictions.png, fuser.png; log with tensorboard --logdir=$(DEMO)"

# The tests of the review page drive a browser of the system.
$(VENV)/.browser: | $(VENV)/.pip
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
	  echo "Installing chromium, which the tests of the review page drive; or install it yourself and run this again."; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq --no-install-recommends chromium; }
	touch $@

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint $(VENV)/.browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

torture: $(VENV)/.demo
	$(BIN)/python launch/torture.py --workdir=runs/torture

ablate: $(VENV)/.demo
	$(BIN)/python launch/ablate.py --workdir=runs/ablate

clean:
	rm -rf $(VENV) runs build *.egg-info
