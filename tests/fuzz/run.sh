#!/bin/sh
# Fuzz the pipeline for so many seconds: tests/fuzz/run.sh SECONDS
# Needs clang with its sanitizer runtimes. What it finds is kept in build/fuzz.
set -eu
cd "$(dirname "$0")/../.."
folder=build/fuzz
PYTHONPATH=. "${PYTHON:-.venv/bin/python}" tests/fuzz/build.py "$folder"
mkdir -p "$folder/corpus"
exec "$folder/fuzz_pipeline" -max_total_time="${1:-60}" -max_len=8192 -timeout=10 \
    -artifact_prefix="$folder/" -print_final_stats=1 "$folder/corpus" "$folder/seeds"
