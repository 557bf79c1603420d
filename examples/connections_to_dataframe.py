"""The connection table as a NumPy array and as a pandas DataFrame.

python examples/connections_to_dataframe.py
"""

from pathlib import Path

import numpy as np
import pandas as pd

import lvscore

CAPTURE = Path(__file__).parent / "data" / "director.pcap"


def main() -> None:
    engine = lvscore.Engine(seed=0)
    web = engine.add_service("tcp", "172.16.1.100:80", scheduler="rr")
    web.add_server("172.16.1.7:80")
    web.add_server("172.16.1.8:80")
    with lvscore.open_pcap(CAPTURE) as source:
        lvscore.run(engine, source)

    table = engine.connections.snapshot()  # a structured array, one consistent copy
    print(f"{len(table)} connections, fields {', '.join(table.dtype.names)}")
    closed = table[table["state"] == lvscore.State.TIME_WAIT]
    print(f"{len(closed)} in TIME_WAIT; most bytes in one: {closed['bytes_out'].max()}")
    servers, bytes_out = np.unique(table["server"][:, -1], return_inverse=True)
    for last_octet, total in zip(servers, np.bincount(bytes_out, table["bytes_out"]), strict=True):
        print(f"172.16.1.{last_octet}: {total:.0f} bytes out")

    frame = pd.DataFrame(engine.connections)  # with addresses as objects, states as names
    print(frame.groupby(["server", "state"])[["packets_in", "packets_out"]].sum())


if __name__ == "__main__":
    main()
