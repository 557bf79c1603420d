"""Directors side by side on one topology: lvscore, a C probe with almost no work, the kernel's
forwarding and NAT, HAProxy and nginx. Needs root; `make bench-live` prepares it.

    python benchmarks/live/live.py [--quick] [--rounds N] [--seconds S] [--only NAME ...] [--json F]

In each round every director has its turn, so that ratios compare what ran within the same minute.
Printed are medians over the rounds, and how they stand to the targets.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests" / "live")]

from directors import WEB, Topology  # noqa: E402
from forwarding import FORWARDERS, Wire  # noqa: E402
from table import judged, table  # noqa: E402

MICROSECONDS = {"us": 1, "ms": 1e3, "s": 1e6}
CLOSE = ("-H", "Connection: close")


def wrk(lab, url, seconds, connections, *words):
    """Requests a second, microseconds of p50 and p99, and errors."""
    threads = str(min(2, connections))
    said = lab.run(
        "client", "wrk", "-c", str(connections), "-t", threads, "-d", str(seconds), "--latency",
        *words, url, timeout=seconds + 30,
    )  # fmt: skip
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    at = {
        p: float(n) * MICROSECONDS[u] for p, n, u in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", said)
    }
    errors = re.findall(r"Socket errors.*|Non-2xx.*", said)
    return float(rate[1]), at["50"], at["99"], errors


def iperf(lab, host, seconds, *words):
    """Gbit/s that arrived."""
    said = lab.run("client", "iperf3", "-c", host, "-t", str(seconds), "-J", *words, check=False,
                   timeout=seconds + 30)  # fmt: skip
    try:
        return json.loads(said)["end"]["sum_received"]["bits_per_second"] / 1e9
    except (KeyError, ValueError):
        return 0.0


def web(topology, director, seconds):
    """What clients get through a director."""
    lab, host = topology.lab, director.host
    with director.at_work(topology):
        assert "Web Page" in lab.curl(f"http://{host}/"), f"{director.name} does not answer"
        found = {}
        for name, connections, words in (
            ("keep-alive", 64, ()), ("close", 64, CLOSE), ("one client", 1, ()),
        ):  # fmt: skip
            rate, p50, p99, errors = wrk(lab, f"http://{host}/", seconds, connections, *words)
            found |= {f"{name} req/s": rate, f"{name} p50 us": p50, f"{name} p99 us": p99}
            if errors:
                found[f"{name} errors"] = errors
        for name, words in (("up", ()), ("down", ("-R",))):
            before = topology.processor_seconds()
            found[f"{name} Gbit/s"] = iperf(lab, host, seconds, *words)
            used = topology.processor_seconds() - before
            carried = found[f"{name} Gbit/s"] * seconds
            found[f"{name} CPU s/Gbit"] = used / carried if carried else 0.0
        return found


def lost(count):
    """Per cent of the packets; a few of the round before may come with them."""
    return max(0.0, 100 * (1 - count["received"] / count["sent"]))


def small(wire, forwarder, seconds):
    """What becomes of datagrams of 60 bytes a frame."""
    with forwarder.at_work(wire):
        most = wire.send(seconds, 0)
        steady = wire.send(seconds, 150_000)
    return {
        "kpps": most["received"] / most["seconds"] / 1e3,
        "loss at most %": lost(most),
        "us of CPU": most["own"] * 1e6 / max(most["received"], 1),
        "loss at 150 kpps %": lost(steady),
        "us of CPU at 150 kpps": steady["own"] * 1e6 / max(steady["received"], 1),
        "all us of CPU": most["all"] * 1e6 / max(most["received"], 1),
    }


def measure(given, folder, probe):
    """Rows by kind, name and round."""
    rows = {"web": {}, "small": {}}
    chosen = set(given.only or ())
    with ExitStack() as stack:
        topology = stack.enter_context(Topology(folder, probe)) if "web" in given.kinds else None
        wire = stack.enter_context(Wire(folder, probe)) if "small" in given.kinds else None
        for number in range(given.rounds):
            for kind, place, directors, run in (
                ("web", topology, WEB, web), ("small", wire, FORWARDERS, small),
            ):  # fmt: skip
                for director in directors if place else ():
                    if chosen and director.name not in chosen:
                        continue
                    print(f"round {number + 1}: {kind}: {director.name}", file=sys.stderr)
                    try:
                        found = run(place, director, given.seconds)
                    except (AssertionError, RuntimeError, subprocess.TimeoutExpired) as error:
                        print(f"  failed: {error}", file=sys.stderr)
                        continue
                    rows[kind].setdefault(director.name, {})[number] = found
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="a trial: 1 round of 1 second")
    parser.add_argument("--only", action="append", help="this director alone; may be repeated")
    parser.add_argument("--kinds", nargs="+", choices=["web", "small"], default=["web", "small"])
    parser.add_argument("--json", help="where all figures go")
    given = parser.parse_args()
    if given.quick:
        given.rounds = given.seconds = 1
    if os.geteuid() != 0:
        raise SystemExit("bench-live makes network namespaces: run it as root")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        probe = folder / "probe"
        sources = map(str, sorted((HERE / "probe").glob("*.c")))
        subprocess.run(["gcc", "-O2", "-o", str(probe), *sources], check=True)
        rows = measure(given, folder, str(probe))
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1))
    for kind, peer in (("web", "nft DNAT"), ("small", "nft DNAT")):
        if rows[kind]:
            print(table(kind, rows[kind], peer))
    print(judged(rows))


if __name__ == "__main__":
    main()
