# Needs Python >= 3.10, make and git. Everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test test-gpu lint format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --progress-bar off -c constraints.txt -e '.[all,dev]'
	# mmcv asks for opencv-python, which needs X11 libraries; segdeploy for the headless one. Both own cv2/: headless last.
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall -c constraints.txt opencv-python-headless
	touch $@

demo: install
	$(BIN)/segdeploy demo

# As many workers as CPUs; what is slow to make is made once and shared. One test, or a debugger: .venv/bin/python -m pytest PATH
WORKERS ?= logical

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses=8 --dist=worksteal

# On a bare machine with a GPU, where torch is and no network: what is marked gpu, and a benchmark, in ten minutes.
# WHEELS is a folder with the other packages; docs/gpu.md says which. Needs nothing installed before.
WHEELS ?=
GPU_OUT ?= gpu-report
test-gpu:
	$(PYTHON) tests/gpu_lane.py $(if $(WHEELS),--wheels $(WHEELS)) --out $(GPU_OUT)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint docker/*.Dockerfile

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo exports model_store published work_dirs
