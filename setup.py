"""What pyproject.toml cannot say: which extensions to cythonize, and how."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("LVSCORE_SANITIZE", "")  # for example "address,undefined"
TRACE = os.environ.get("LVSCORE_TRACE") == "1"  # line coverage of compiled code
DEBUG = bool(SANITIZE) or TRACE or os.environ.get("LVSCORE_DEBUG") == "1"
FLAVOUR = "trace" if TRACE else "debug" if DEBUG else "release"

MODULES = [str(path.with_suffix("")).replace("/", ".") for path in Path("lvscore").rglob("*.pyx")]

# Directives are set here and nowhere else: a comment at the top of a .pyx does not
# reach the inline functions that it cimports from a .pxd.
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "initializedcheck": False,
    "boundscheck": DEBUG,
    "wraparound": False,
    "binding": True,
    "auto_pickle": False,
    "autotestdict": False,
    "freethreading_compatible": True,
    "linetrace": TRACE,
}

# Some Pythons are built with -O2, which costs the inner loop a tenth.
cflags, ldflags, macros = ["-O1", "-g"] if DEBUG else ["-O3"], [], []
cflags.append("-Wno-sign-compare")  # Cython compares loop variables with enum constants
if SANITIZE:
    cflags += [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer"]
    ldflags += [f"-fsanitize={SANITIZE}"]
if TRACE:
    macros += [
        ("CYTHON_TRACE", "1"),
        ("CYTHON_TRACE_NOGIL", "1"),
        ("CYTHON_USE_SYS_MONITORING", "0"),
    ]

setup(
    ext_modules=cythonize(
        [
            Extension(
                name,
                [name.replace(".", "/") + ".pyx"],
                extra_compile_args=cflags,
                extra_link_args=ldflags,
                define_macros=macros,
            )
            for name in MODULES
        ],
        compiler_directives=DIRECTIVES,
        # cythonize compares time stamps, not directives: each flavour has a folder of its own.
        build_dir=f"build/cython-{FLAVOUR}",
        emit_linenums=DEBUG,
        nthreads=os.cpu_count() or 1,
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
