"""Medians over the rounds, ratios within each round, and how they stand to the targets."""

import statistics

TARGETS = (
    # kind, figure, director, peer, bound, and whether it is the least
    ("small", "kpps", "lvscore ring, throughput", "nft DNAT", 1.1, True),
    ("small", "kpps", "lvscore ring", "nft DNAT", 0.8, True),
    ("small", "us of CPU", "lvscore ring", "probe ring", 1.25, False),
    ("small", "us of CPU", "lvscore ring, throughput", "probe blocks", 1.25, False),
    ("small", "us of CPU", "lvscore copy", "probe copy", 1.25, False),
    ("small", "us of CPU", "lvscore xdp", "probe xdp", 1.25, False),
    ("small", "us of CPU", "lvscore tap", "probe tap", 1.25, False),
    ("small", "us of CPU at 150 kpps", "lvscore ring", "probe ring", 1.25, False),
    ("small", "loss at 150 kpps %", "lvscore ring", None, 0.1, False),
    ("web", "up Gbit/s", "lvscore ring", "nft DNAT", 0.8, True),
    ("web", "down Gbit/s", "lvscore ring", "nft DNAT", 0.8, True),
    ("web", "up Gbit/s", "lvscore ring", "HAProxy", 1.3, True),
    ("web", "down Gbit/s", "lvscore ring", "HAProxy", 1.3, True),
    ("web", "keep-alive req/s", "lvscore ring", "nft DNAT", 0.75, True),
    ("web", "close req/s", "lvscore ring", "nft DNAT", 0.75, True),
    ("web", "close req/s", "lvscore ring", "HAProxy", 1.0, True),
    ("web", "one client p50 us", "lvscore ring", "nft DNAT", 2.0, False),
)


def median(rounds, figure):
    """Of one director; None: there is nothing."""
    values = [found[figure] for found in rounds.values() if figure in found]
    return statistics.median(values) if values else None


def ratio(rows, figure, director, peer):
    """The median of the ratios of the rounds, least and greatest; None: there is none."""
    mine, other = rows.get(director, {}), rows.get(peer, {})
    ratios = [mine[n][figure] / other[n][figure] for n in mine.keys() & other.keys()
              if other[n].get(figure)]  # fmt: skip
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def table(kind, rows, peer):
    """Markdown: medians, and in brackets the ratio to ``peer``."""
    figures = [name for name in next(iter(next(iter(rows.values())).values()))
               if not name.endswith("errors")]  # fmt: skip
    lines = [f"| {kind} | {' | '.join(figures)} |", f"|---|{'---|' * len(figures)}"]
    for director, rounds in rows.items():
        cells = []
        for figure in figures:
            value, to = median(rounds, figure), ratio(rows, figure, director, peer)
            shown = "" if value is None else f"{value:.{0 if value >= 100 else 2}f}"
            cells.append(shown + (f" ({to[0]:.2f})" if to and "%" not in figure else ""))
        lines.append(f"| {director} | {' | '.join(cells)} |")
        for found in rounds.values():
            lines += [f"|   {name}: {said} |" for name, said in found.items() if "errors" in name]
    return "\n".join(lines) + f"\n\nIn brackets: the ratio to {peer} in the same round.\n"


def judged(rows):
    """Targets, each met or missed."""
    lines = ["| target | measured (least, greatest) | |", "|---|---|---|"]
    for kind, figure, director, peer, bound, least in TARGETS:
        sign = "≥" if least else "≤"
        if peer is None:
            value = median(rows[kind].get(director, {}), figure)
            measured = None if value is None else (value, value, value)
            what = f"{director}: {figure} {sign} {bound}"
        else:
            measured = ratio(rows[kind], figure, director, peer)
            what = f"{director}: {figure} {sign} {bound} of {peer}"
        if measured is None:
            continue
        met = measured[0] >= bound if least else measured[0] <= bound
        shown = f"{measured[0]:.2f} ({measured[1]:.2f}, {measured[2]:.2f})"
        lines.append(f"| {what} | {shown} | {'met' if met else 'MISSED'} |")
    return "\n".join(lines)
