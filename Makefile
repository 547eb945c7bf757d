# `make demo` and `make test` are all a fresh machine needs; both make .venv first if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# make demo SOURCE=path RATE=15 SEED=1000033 FRAMES=60 WEIGHTS=lite
SOURCE ?=
RATE ?= 0
SEED ?=
FRAMES ?= 60
WEIGHTS ?= lite
OUT ?= out/demo
MINUTES ?= 10
MGCDA_SHARED ?= ../shared

.PHONY: help demo failures test test-long test-data soak lint clean venv
.DELETE_ON_ERROR:

help:
	@echo "make demo       draw a drive, run the real node on it over DDS, judge it: $(OUT)/"
	@echo "make demo SOURCE=path [RATE=15]   the same for images, a video or a bag"
	@echo "make test       lint and all tests that need nothing outside this clone"
	@echo "make test-long  those of them that take a minute each, which make test leaves out"
	@echo "make test-data  the tests on the data sets in $(MGCDA_SHARED)"
	@echo "make soak       the real node for MINUTES=10 with restarts and a slow consumer: out/soak/soak.png"
	@echo "make failures   the worst false alarms and misses on the development sets: out/failures/report.html"
	@echo "make lint       ruff, pyright, import-linter"
	@echo "make clean      remove what these commands made, .venv included"

venv: $(STAMP)

$(STAMP): requirements-dev.txt constraints.txt setup.py setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "error: $(PYTHON) is older than Python 3.10; name a newer one with make PYTHON=..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)
	@rm -rf $(OUT)/report.json $(OUT)/result.json $(OUT)/result.mcap $(OUT)/overlay.mp4 $(OUT)/contact_sheet.png \
	  $(OUT)/report.html
	$(BIN)/python -m mgcda_core.cli render --out $(OUT)/drive --frames $(FRAMES)$(if $(SEED), --seed $(SEED))$(if $(SOURCE), --source "$(SOURCE)")
	$(BIN)/python -m mgcda_ros.replay --bag $(OUT)/drive --out $(OUT)/result.mcap --rate $(RATE) \
	  --image-topic /camera/image $(if $(filter-out lite,$(WEIGHTS)),--node-args --ros-args -p weights:=$(WEIGHTS))
	$(BIN)/python -m mgcda_core.cli eval-bag $(OUT)/drive --image /camera/image --recorded $(OUT)/result.mcap \
	  --result_json $(OUT)/result.json --out $(OUT) --weights $(WEIGHTS)
	@echo "report: $(OUT)/report.html (open it in a browser), video: $(OUT)/overlay.mp4"

failures: $(STAMP)
	$(BIN)/python -m mgcda_core.cli eval --sets config/development_sets.yaml --weights $(WEIGHTS) --bootstrap 0 \
	  --gallery 24 --report out/failures

test: lint
	$(BIN)/python -m pytest -m "not data and not long" $(PYTEST_ARGS)

test-long: $(STAMP)
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

test-data: $(STAMP)
	MGCDA_SHARED="$(MGCDA_SHARED)" $(BIN)/python -m pytest -m data $(PYTEST_ARGS)

soak: $(STAMP)
	$(BIN)/python -m mgcda_ros.soak --minutes $(MINUTES) --weights $(WEIGHTS) --out out/soak

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out build install log *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
