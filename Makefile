# Needs Python >= 3.10, make and git. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt -e '.[all,dev]'
	# mmcv asks for opencv-python, which needs X11 libraries; segdeploy for the headless one. Both own cv2/: headless last.
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall -c constraints.txt opencv-python-headless
	touch $@

demo: install
	$(BIN)/segdeploy demo

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo exports model_store published work_dirs
