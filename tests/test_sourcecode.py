"""Rules that the sources keep."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lvscore"
CORE = sorted((PACKAGE / "_core").glob("*.pxd"))
SOURCES = [
    path for folder in (PACKAGE, ROOT / "tests") for path in sorted(folder.rglob("*"))
    if path.suffix in (".py", ".pyx", ".pxd", ".pxi", ".pyi")
]  # fmt: skip
MAX_LINES = 600


def functions(text):
    """(signature) of every cdef function that has a body here."""
    joined = re.sub(r",\n\s+", ", ", text)
    joined = re.sub(r"\(\n\s+", "(", joined)
    return re.findall(r"^cdef (?:inline |public )?[^\n=]*\([^\n]*\)[^\n]*:$", joined, re.M)


def without_comments(text):
    text = re.sub(r'"""(?!\n\s+#include).*?"""', "", text, flags=re.S)
    return re.sub(r"#.*", "", text)


def test_there_is_something_to_read():
    assert len(CORE) > 15
    assert sum(len(functions(path.read_text())) for path in CORE) > 150


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_every_core_function_is_inline_noexcept_nogil(path):
    for signature in functions(path.read_text()):
        assert signature.startswith("cdef inline "), signature
        assert signature.endswith("noexcept nogil:"), signature


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_has_no_clock_chance_output_or_objects(path):
    code = without_comments(path.read_text())
    for word in (
        "print", "printf", "time", "clock_gettime", "gettimeofday", "rand", "random", "getenv",
        "object", "raise", "with gil", "fopen", "open", "socket", "def",
    ):  # fmt: skip
        found = re.search(rf"(?<![\w.]){word}(?![\w.])", code)
        assert found is None, f"{path.name} says {word!r}"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_verbatim_c_stays_where_it_is_explained(path):
    # What Cython cannot say, and constant tables.
    allowed = {"crc32c.pxd", "machine.pxd", "rule_sctp.pxd", "track.pxd", "track_sctp.pxd"}
    assert path.name in allowed or "cdef extern from *" not in path.read_text()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_readable(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    for number, line in enumerate(lines, 1):
        assert "TO" + "DO" not in line, f"{path}:{number}"
        assert "FIX" + "ME" not in line, f"{path}:{number}"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.stat().st_size and path.suffix != ".pyi"],
    ids=lambda path: str(path.relative_to(ROOT)),
)  # fmt: skip
def test_every_file_says_what_it_is(path):
    if path.suffix == ".py":
        assert ast.get_docstring(ast.parse(path.read_text()))
    else:
        assert path.read_text().startswith('"""')


def test_directives_stand_in_setup_alone():
    for path in SOURCES:
        if path.suffix in (".pyx", ".pxd"):
            assert not re.search(r"^#\s*cython:", path.read_text(), re.M), path
