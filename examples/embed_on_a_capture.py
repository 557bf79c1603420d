"""Put an LVS-NAT director into your program, on a capture.

python examples/embed_on_a_capture.py [IN.pcap [OUT.pcap]]
"""

import sys
from pathlib import Path

import lvscore

DATA = Path(__file__).parent / "data"


def main(capture: str, translated: str) -> None:
    engine = lvscore.Engine(seed=0)
    web = engine.add_service("tcp", "172.16.1.100:80", scheduler="rr")
    web.add_server("172.16.1.7:80")  # masquerading is the default forwarding method
    web.add_server("172.16.1.8:80")

    with (
        lvscore.open_pcap(capture) as source,
        lvscore.create_pcap(translated, like=source) as sink,
    ):
        report = lvscore.run(engine, source, sink)  # time is the capture's own
    print(report)
    for server in web.servers:
        print(f"{server.endpoint}: {server.statistics.connections} connections")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(
        arguments[0] if arguments else str(DATA / "director.pcap"),
        arguments[1] if len(arguments) > 1 else "translated.pcap",
    )
