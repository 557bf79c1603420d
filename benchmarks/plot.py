"""Plot ns per packet against connections from a pytest-benchmark JSON file.

python benchmarks/plot.py out/benchmarks.json out/benchmarks.png
"""

import json
import math
import sys

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

LINES = {"established": "Engine, virtual service", "host": "Host, virtual service",
         "established, DNAT rule": "Engine, NAT rule"}  # fmt: skip
PEERS = {"rte_hash_ns": ("DPDK's rte_hash, look-up alone", ":^"),
         "ovs_conntrack_ns": ("Open vSwitch, conntrack with NAT, from outside", ":v"),
         "rewriter_ns": ("Click's IPRewriter, from outside", ":x")}  # fmt: skip


def main(source, target):
    with open(source) as file:
        benchmarks = json.load(file)["benchmarks"]
    figure, axes = plt.subplots(figsize=(7, 4.8))
    limits = {}
    for group, label in LINES.items():
        rows = sorted(
            (e["extra_info"]["connections"], e["extra_info"]["ns_per_packet"])
            for e in benchmarks
            if e["group"] == group
        )
        if rows:
            axes.plot(*zip(*rows, strict=True), marker="o", label=label)
    for entry in benchmarks:
        measured = entry["extra_info"].get("limit_ns")
        if measured and measured[0]:
            limits.setdefault(entry["extra_info"]["connections"], []).extend(measured)
    if limits:
        rows = [(count, sum(v) / len(v)) for count, v in sorted(limits.items())]
        axes.plot(*zip(*rows, strict=True), "k--", marker="s", label="limit.c, the least work")
    high = False
    for name, (label, style) in PEERS.items():
        best = {}
        for info in (entry["extra_info"] for entry in benchmarks):
            if info.get(name):
                count = info["connections"]
                best[count] = min(info[name], best.get(count, math.inf))
        if best:
            axes.plot(*zip(*sorted(best.items()), strict=True), style, label=label)
            high |= name != "rte_hash_ns"
    axes.set(
        xscale="log", xlabel="connections", ylabel="ns per packet, one core",
        title="An established packet: 64 bytes, connections at random",
    )  # fmt: skip
    if high:  # an order of magnitude above the others
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, fontsize="small")
    figure.tight_layout()
    figure.savefig(target, dpi=120)
    print(f"The plot is {target}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
