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


def operations(*frames, last=()):
    """Frames, and what stands between them: bytes are a frame, a tuple is an operation."""
    out = bytearray()
    for item in (*frames, *last):
        if isinstance(item, tuple):
            out += bytes(item)
        else:
            out += bytes([128 if len(item) > 255 else 0, len(item) & 255]) + item
    return bytes(out)


def control_connections():
    """Inputs with FTP: a service on port 21, and all that its helper reads."""
    from scapy.layers.inet import IP, TCP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    ends = {4: (IP, "10.9.0.9", "172.16.1.100", "10.0.0.1"),
            6: (IPv6, "fd00::9", "fd00::100", "a00::1")}  # fmt: skip
    said = {
        4: [(0, b"PASV\r\n"), (1, b"227 ok (10,0,0,1,200,10).\r\n"), (0, b"EPSV 1\r\n"),
            (1, b"229 ok (|1|10.0.0.1|51211|)\r\n"), (0, b"PORT 10,9,0,9,200,20\r\n"),
            (0, b"EPRT |1|10.9.0.9|51221|\r\n")],
        6: [(0, b"EPSV\r\n"), (1, b"229 ok (|2|a00::1|51211|)\r\n"), (0, b"EPSV 2\r\n"),
            (1, b"229 ok (|||51210|)\r\n"), (0, b"EPRT |2|fd00::9|51220|\r\n")],
    }  # fmt: skip
    for version, (layer, client, virtual, server) in ends.items():
        numbers = [1000, 5000]

        def segment(answers, flags="A", text=b"", ports=(40000, 21, 8080), ends=ends[version],
                    numbers=numbers):  # fmt: skip
            layer, client, virtual, server = ends
            near, there, behind = ports
            source, destination = (server, client) if answers else (client, virtual)
            sport, dport = (behind, near) if answers else (near, there)
            sack = [("NOP", None), ("SAck", (numbers[1], numbers[1] + 9))]
            header = TCP(sport=sport, dport=dport, flags=flags, seq=numbers[answers],
                         ack=numbers[1 - answers], options=[] if answers else sack)  # fmt: skip
            numbers[answers] += len(text)
            return bytes(Ether() / layer(src=source, dst=destination) / header / text)

        frames = [segment(0, "S"), (13, 1, 0), (13, 1, 1), segment(0, "S"), segment(1, "SA"),
                  segment(0)]  # fmt: skip
        for answers, text in said[version]:
            frames.append(segment(answers, "PA", text))
            frames += [frames[-1], segment(1 - answers)]  # once more, and acknowledged
        for port in (51210, 51211):
            frames += [segment(0, "S", ports=(41000, port, port)),
                       segment(1, "SA", ports=(41000, port, port))]  # fmt: skip
        frames.append(segment(1, "S", ports=(51220, 20, 8079)))
        end = [(15, 0, 0), (10, 200, 34), segment(0, "R"), (12, 0, 0)]
        yield f"ftp-{version}", bytes([17, 0]) + operations(*frames, last=end)


def write_seeds(folder):
    target = folder / "seeds"
    target.mkdir(exist_ok=True)
    for name, data in (*seeds(), *control_connections()):
        (target / name).write_bytes(data)
    return target


if __name__ == "__main__":
    output = Path(sys.argv[1])
    output.mkdir(parents=True, exist_ok=True)
    compile_program(output)
    write_seeds(output)
