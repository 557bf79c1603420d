"""Record scenarios on a real Linux director: Debian's kernel, in QEMU's emulation.

    python tests/kernel/record.py SCENARIOS.json RECORDING.json

A scenario is of the form that tests/conformance replays, so that every recording is one; of its
steps the commands, packets and sleeps are done anew, and their results written down. The machine
counts instructions for its clock and skips idle time: hours of sleep take seconds, and a run is
nearly the same each time. It has no network but its own namespaces.

Debian packages: qemu-system-x86, kmod, cpio, busybox-static, ipvsadm, iptables, conntrack,
iproute2, ethtool; the kernel (linux-image-amd64) is downloaded and unpacked below build/kernel.
"""

import argparse
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "kernel"
PROGRAMS = (
    "python3", "ipvsadm", "ip", "ethtool", "conntrack", "kmod", "dash", "bash", "xtables-nft-multi",
)  # fmt: skip
APPLETS = (
    "cat", "sort", "grep", "ls", "mount", "mkdir", "echo", "printf", "basename", "poweroff",
    "sleep", "sysctl", "uname",
)  # fmt: skip
"""From busybox; the shell and ip must be the real ones."""
LINKS = {
    "dash": ["sh"],
    "kmod": ["modprobe", "rmmod"],
    "xtables-nft-multi": ["iptables", "ip6tables"],
}
MODULES = (
    "net", "lib", "crypto", "arch/x86/crypto", "drivers/net/veth.ko", "drivers/virtio",
    "drivers/block/virtio_blk.ko",
)  # fmt: skip
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
for module in virtio_pci virtio_blk veth ip_vs nf_nat_ftp; do modprobe $module; done
ip link set lo up
python3 /director.py
poweroff -f
"""


def run(*command: str | Path, **options) -> str:
    return subprocess.run(command, check=True, text=True, capture_output=True, **options).stdout


def unpack_kernel() -> tuple[Path, str]:
    """Debian's present kernel, unpacked; its folder and version."""
    folder = BUILD / "unpacked"
    if not (folder / "boot").exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        depends = run("apt-cache", "depends", "linux-image-amd64")
        package = next(w for w in depends.split() if w.startswith("linux-image-6"))
        run("apt-get", "download", package, cwd=BUILD)
        run("dpkg", "-x", next(BUILD.glob(f"{package}_*.deb")), folder)
    version = next((folder / "lib/modules").iterdir()).name
    run("/sbin/depmod", "-b", folder, version)
    return folder, version


def copy_program(root: Path, program: Path) -> None:
    """A program, and the libraries that it is linked to."""
    files = {program.resolve()}
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    files |= {Path(word) for word in linked.split() if word.startswith("/")}
    for file in files:
        target = root / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(file, target)


def build_image(kernel: Path, version: str) -> Path:
    """An initial file system with the programs, the modules and the director's script."""
    root = BUILD / "root"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "proc", "sys", "dev", "run", "etc", "usr/lib"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    search = "/usr/sbin:/usr/bin:/sbin:/bin"
    for name in PROGRAMS:
        program = Path(shutil.which(name, path=search) or sys.exit(f"{name} is not installed"))
        copy_program(root, program)
        for link in [name, *LINKS.get(name, [])]:
            if not (root / "bin" / link).exists():
                (root / "bin" / link).symlink_to(program.resolve())
    (root / "sbin").mkdir(exist_ok=True)
    (root / "sbin/modprobe").symlink_to("/bin/modprobe")  # the kernel's own for what it lacks
    for script in ("ipvsadm-save", "ipvsadm-restore"):
        shutil.copy(shutil.which(script, path=search) or "", root / "bin")
    for plugin in Path("/usr/lib").glob("*/xtables"):
        shutil.copytree(plugin, root / plugin.relative_to("/"))
    library = next(Path("/usr/lib").glob("python3.*[0-9]"))
    unused = shutil.ignore_patterns("test", "idlelib", "ensurepip", "__pycache__", "config-*")
    shutil.copytree(library, root / library.relative_to("/"), ignore=unused, symlinks=True)
    for extension in (library / "lib-dynload").glob("*.so"):
        copy_program(root, extension)
    for name in ("protocols", "services"):
        shutil.copy(f"/etc/{name}", root / "etc")
    modules = kernel / "lib/modules" / version
    target = root / "lib/modules" / version
    for part in MODULES:
        source = modules / "kernel" / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        (target / "kernel" / part).parent.mkdir(parents=True, exist_ok=True)
        copy(source, target / "kernel" / part)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(modules / name, target)
    run("/sbin/depmod", "-b", root, version)
    shutil.copy(HERE / "director.py", root)
    shutil.copy(HERE.parent / "conformance/lots.py", root)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    image = BUILD / "image.gz"
    run("sh", "-c", f"find . | cpio -o -H newc --quiet | gzip -1 > {image}", cwd=root)
    return image


def record(group: dict) -> dict:
    """Have the kernel do all scenarios of a group; the group as recorded."""
    kernel, version = unpack_kernel()
    image = build_image(kernel, version)
    job = json.dumps(group).encode()
    given, results = BUILD / "given", BUILD / "results"
    given.write_bytes((struct.pack(">Q", len(job)) + job).ljust(-(-len(job) // 512) * 512 + 512))
    with results.open("wb") as file:
        file.truncate(256 << 20)
    console = subprocess.run(
        [
            "qemu-system-x86_64", "-accel", "tcg", "-icount", "shift=0,sleep=off", "-cpu", "max",
            "-m", "1500M", "-nographic", "-no-reboot", "-net", "none",
            "-kernel", next((kernel / "boot").glob("vmlinuz-*")), "-initrd", image,
            "-append", "console=ttyS0 loglevel=1 rdinit=/init tsc=reliable mitigations=off",
            "-drive", f"file={given},if=virtio,format=raw,readonly=on",
            "-drive", f"file={results},if=virtio,format=raw",
        ],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    ).stdout  # fmt: skip
    with results.open("rb") as file:
        size = struct.unpack(">Q", file.read(8))[0]
        if size == 0:
            sys.exit(f"the director wrote nothing:\n{console[-3000:]}")
        return json.loads(file.read(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("scenarios", type=Path)
    parser.add_argument("recording", type=Path)
    arguments = parser.parse_args()
    group = json.loads(arguments.scenarios.read_text())
    arguments.recording.write_text(json.dumps(record(group), indent=1) + "\n")


if __name__ == "__main__":
    main()
