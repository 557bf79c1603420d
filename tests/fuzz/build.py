"""Compile fuzz_pipeline.pyx with clang into a libFuzzer program, and make its seeds.

    python tests/fuzz/build.py FOLDER

puts ``fuzz_pipeline`` and ``seeds/`` into FOLDER. The interpreter is linked and never started.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DIRECTIVES = (
    "language_level=3,cdivision=True,initializedcheck=False,wraparound=False,boundscheck=False"
)
SANITIZERS = "fuzzer,address,undefined"


def translate(folder):
    """The C file."""
    c_file = folder / "fuzz_pipeline.c"
    subprocess.run(
        [sys.executable, "-m", "cython", "-X", DIRECTIVES, "--line-directives", "-I", str(ROOT),
         str(HERE / "fuzz_pipeline.pyx"), "-o", str(c_file)], check=True,
    )  # fmt: skip
    return c_file


def compile_program(folder, sanitizers=SANITIZERS):
    """The program; undefined behaviour ends it, as a memory error does."""
    c_file = translate(folder)
    program = folder / "fuzz_pipeline"
    paths = sysconfig.get_paths()
    library = sysconfig.get_config_var("LIBDIR")
    command = [
        "clang", "-g", "-O1", "-fno-omit-frame-pointer", f"-fsanitize={sanitizers}",
        f"-fsanitize-coverage-ignorelist={HERE / 'not_covered.txt'}",
        "-include", str(HERE / "plain_mmap.h"),
        "-fno-sanitize-recover=undefined", f"-I{paths['include']}", str(c_file),
        "-o", str(program), f"-L{library}", f"-Wl,-rpath,{library}",
        f"-lpython{sysconfig.get_config_var('LDVERSION')}", "-Wno-unused-function",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return program


def seeds():
    """Inputs from the project's captures: a service or a rule for what the first frames ask."""
    sys.path.insert(0, str(HERE.parent / "engine"))
    from captures import DATA, load

    link_types = [1, 101, 228, 229, 113, 276, 0]
    for path in sorted(DATA.rglob("*.pcap*")):
        for capture in load(path):
            if capture.link_type not in link_types:
                continue
            frames = [frame for frame in capture.frames[:30] if len(frame.data) < 512]
            if not frames:
                continue
            for kind, setup in (
                ("service", bytes([13, 0, 0, 13, 0, 1, 13, 0, 6])),
                ("dnat", bytes([14, 8 | 16, 0])),
                ("snat", bytes([14, 1, 0, 14, 3 | 32, 0])),
            ):
                out = bytearray([1, link_types.index(capture.link_type)])
                for n, frame in enumerate(frames):
                    size = len(frame.data)
                    out += bytes([128 if size > 255 else 0, size & 255]) + frame.data
                    out += setup if n in (0, 5) else b""
                    out += bytes([10, 200, 24]) if n % 7 == 3 else b""
                yield f"{path.stem}-{kind}", bytes(out + bytes([12, 0, 0]))


def write_seeds(folder):
    target = folder / "seeds"
    target.mkdir(exist_ok=True)
    for name, data in seeds():
        (target / name).write_bytes(data)
    return target


if __name__ == "__main__":
    output = Path(sys.argv[1])
    output.mkdir(parents=True, exist_ok=True)
    compile_program(output)
    write_seeds(output)
