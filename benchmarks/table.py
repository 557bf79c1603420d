"""Print the benchmarks of a pytest-benchmark JSON file as a Markdown table.

python benchmarks/table.py out/benchmarks.json
"""

import json
import sys


def main(path):
    with open(path) as file:
        benchmarks = json.load(file)["benchmarks"]
    print("| group | benchmark | median | figures |")
    print("|---|---|---|---|")
    for entry in benchmarks:
        figures = ", ".join(f"{name} {value}" for name, value in entry["extra_info"].items())
        median = entry["stats"]["median"] * 1e3
        print(f"| {entry['group'] or ''} | {entry['name']} | {median:.1f} ms | {figures} |")


if __name__ == "__main__":
    main(sys.argv[1])
