# Two commands on a fresh machine: `make demo` sets up and runs the main job, `make test` the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find lvscore -name '*.pyx' -o -name '*.px[di]') setup.py pyproject.toml
OUT := out

.PHONY: demo lab lab-ipv6 test lint bench bench-live fuzz clean

$(VENV)/.installed: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/lvscore replay examples/data/director.pcap -o $(OUT)/translated.pcap -c examples/data/lvs.rules
	$(BIN)/python examples/lvs_nat_lab.py $(OUT)/lab
	@echo "The translated capture is $(OUT)/translated.pcap; tcpdump -nr or Wireshark opens it."

lab: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/python examples/lab/lab.py $(OUT)/captures

lab-ipv6: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/python examples/lab/lab.py --ipv6 $(OUT)/captures-ipv6

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --ignore=tests/live tests
	@# In real time, beside a kernel: alone on the machine.
	$(BIN)/python -m pytest tests/live

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint lvscore tests
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest lvscore

bench: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/pip install --quiet --editable '.[bench]'
	$(BIN)/python -m pytest benchmarks --benchmark-json=$(OUT)/benchmarks.json
	$(BIN)/python benchmarks/table.py $(OUT)/benchmarks.json > $(OUT)/benchmarks.md
	cat $(OUT)/benchmarks.md
	$(BIN)/python benchmarks/plot.py $(OUT)/benchmarks.json $(OUT)/benchmarks.png

bench-live: $(VENV)/.installed
	mkdir -p $(OUT)
	$(BIN)/python benchmarks/live/live.py --json $(OUT)/bench-live.json $(BENCH_LIVE)

fuzz:
	tests/fuzz/run.sh 60

clean:
	rm -rf $(VENV) build $(OUT)
	find lvscore -name '*.so' -delete
