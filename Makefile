# Every target works in a fresh clone: it creates .venv first if that is missing or out of date.
# `make` or `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export MLFLOW_DISABLE_TELEMETRY ?= true

.PHONY: help demo test browser test-systems java test-ways test-lowest test-pythons check docs bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# torch is installed first: it is the largest download, and pip resolves the other packages against it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "vae-anomaly needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test,dev]'
	touch $@

demo: $(READY)  ## install, fit on data/, register, score, evaluate: a few minutes the first time
	$(BIN)/vae-anomaly fit data/normal.parquet
	$(BIN)/vae-anomaly score data/new.csv --id-columns timestamp,machine_id --overwrite
	$(BIN)/vae-anomaly evaluate data/labelled.parquet --label-column fault
	@echo
	@echo "Next: scores in data/new.scores.csv, figures of the fit with $(BIN)/vae-anomaly ui, columns with $(BIN)/vae-anomaly info"

# Tests of the report need a headless browser; they are skipped if there is none and none can be installed.
test: $(READY) browser  ## the whole suite on two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

browser:
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1 \
		|| echo "no Chromium could be installed; the tests that look at the report in a browser will be skipped"; \
	fi

test-systems: $(READY) java  ## one table through MLflow's server and command line and through Spark; the log is benchmarks/results/systems.md
	$(BIN)/pip install --quiet -c constraints.txt -e '.[systems]'
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/systems.py

java:
	@command -v java >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless) >/dev/null 2>&1; \
	fi; \
	command -v java >/dev/null || { echo "Spark needs Java 17 or newer, and there is no java on the path: install a JRE, such as default-jre-headless"; exit 1; }

test-ways: $(READY)  ## 200 made tables, each written in every way that means the same; the log is benchmarks/results/ways.md
	MADE_TABLES=200 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/schema/test_levels.py -k written_or_folders

PROCESSES ?= 2

# The resolver of pip takes some minutes over old versions.
.venv-lowest/.ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet -c constraints-lowest.txt -e '.[cloud,test]'
	touch $@

test-lowest: .venv-lowest/.ready browser  ## the suite with the lowest versions that pyproject.toml allows; the log is benchmarks/results/versions.md
	OMP_NUM_THREADS=1 .venv-lowest/bin/python benchmarks/versions.py lowest -n $(PROCESSES)

PYTHONS ?= python3.12 python3.13

.venv-python%/.ready: pyproject.toml constraints.txt
	python$* -m venv .venv-python$*
	.venv-python$*/bin/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

test-pythons: browser  ## the suite on each of PYTHONS, by default "python3.12 python3.13"; the same log
	@status=0; for name in $(PYTHONS); do \
		if $$name -c '' 2>/dev/null; then \
			{ $(MAKE) .venv-$$name/.ready && OMP_NUM_THREADS=1 .venv-$$name/bin/python benchmarks/versions.py $$name -n $(PROCESSES); } || status=1; \
		else $(PYTHON) benchmarks/versions.py $$name --absent; fi; \
	done; exit $$status

check: $(READY)  ## ruff (ALL), formatting, mypy (strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation as a site in site/; a warning, a broken link or a missing anchor is an error
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --clean --strict

bench: $(READY)  ## all measurements, with the peers in the same run: hours; ADBENCH=folder of its .npz files, SHARED=folder with mixed/sick.data
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/acceptance.py $(if $(SHARED),--shared $(SHARED))
	$(BIN)/python benchmarks/reasons.py
	$(BIN)/python benchmarks/kill.py
	$(BIN)/python benchmarks/big_score.py
	$(if $(ADBENCH),$(BIN)/python benchmarks/decide.py $(ADBENCH))
	$(if $(ADBENCH),$(BIN)/python benchmarks/detection.py $(ADBENCH))
	$(if $(ADBENCH),$(BIN)/python benchmarks/detection_choices.py $(ADBENCH))
	$(if $(ADBENCH),$(BIN)/python benchmarks/contamination.py $(ADBENCH))
	$(BIN)/pip install --quiet -c constraints.txt -e '.[fuzz]'
	$(BIN)/python benchmarks/fuzz/run.py --work .fuzz

clean:  ## remove the environment and all generated files
	rm -rf .venv .venv-lowest .venv-python* site .cache mlruns mlflow.db .mypy_cache .ruff_cache data/*.scores.* data/*.manifest.json data/.*.resume
