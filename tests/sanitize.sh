#!/bin/sh
# Build with the address and undefined behaviour sanitizers, apart from the tree, and run the
# core's and the engine's tests: tests/sanitize.sh [PYTEST ARGUMENTS]
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
copy=build/sanitized
rm -rf "$copy"
mkdir -p "$copy"
cp -r lvscore tests setup.py pyproject.toml README.md LICENSE "$copy"
find "$copy" -name '*.so' -delete
# What a test reads of the optional captures stands beside the repository.
[ ! -d ../shared ] || ln -s "$(cd ../shared && pwd)" "build/shared"  2>/dev/null || true
cd "$copy"
LVSCORE_SANITIZE=address,undefined "$python" setup.py --quiet build_ext --inplace
export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
# Overruns inside Python's own memory pools would stay hidden; leaks of the interpreter are not ours.
export PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
export LVSCORE_HYPOTHESIS=sanitized
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH=.
if [ $# -eq 0 ]; then
    set -- -q -n 2 -p no:cacheprovider tests/core tests/engine tests/io tests/test_frames.py
fi
exec "$python" -m pytest "$@"
