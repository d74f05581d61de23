VENV ?= .venv
PYTHON ?= python3
EXTRAS ?= test
PY = $(VENV)/bin/python
# one of three processes waits for Slurm most of its time
PARALLEL = -n 3 --dist loadgroup --no-loadscope-reorder

.PHONY: setup demo docs test test-long lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: setup  ## a fresh clone to a report: runs/report/index.html
	$(PY) launch/demo.py

docs: $(VENV)/.docs  ## the site: site/index.html; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

$(VENV)/.docs: $(VENV)/.ready
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

test: setup
	$(PY) -m pytest $(PARALLEL)

test-long: setup  ## with the tests that take minutes: kills at every step, damage everywhere
	$(PY) -m pytest $(PARALLEL) -m "long or not long" --timeout 3600

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m codespell_lib autosparse launch benchmarks docs slurm README.md CONTRIBUTING.md CHANGELOG.md

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache *.egg-info
