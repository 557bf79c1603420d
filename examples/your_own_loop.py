"""Drive the engine from your own loop: one frame at a time, no files, no sockets.

python examples/your_own_loop.py
"""

from pathlib import Path

import lvscore
from lvscore import Verdict

CAPTURE = Path(__file__).parent / "data" / "director.pcap"


def frames() -> list[tuple[int, bytes]]:
    """Stands for wherever your frames come from: (nanoseconds, frame)."""
    with lvscore.open_pcap(CAPTURE) as source:
        return [
            (int(batch.timestamp[i]), bytes(batch[i]))
            for batch in source
            for i in range(len(batch))
        ]


def main() -> None:
    engine = lvscore.Engine(seed=0)
    web = engine.add_service("tcp", "172.16.1.100:80", scheduler="rr")
    web.add_server("172.16.1.7:80")
    web.add_server("172.16.1.8:80")

    sent = 0
    deadline = None
    for now, raw in frames():
        if deadline is not None and now >= deadline:
            engine.expire(now)  # process() does it too; this is for loops that idle
        frame = bytearray(raw)  # rewritten in place
        verdict = engine.process(frame, now)
        if verdict is Verdict.FORWARD:
            sent += 1  # send(frame)
        elif verdict is Verdict.DROP:
            print("dropped:", engine.last_reason.name)
        deadline = engine.next_deadline()

    print(f"{sent} frames to send, {len(engine.connections)} connections")
    now, first = frames()[0]
    print("\nWhat would become of the first frame now, and why:")
    print(engine.explain(first, now))


if __name__ == "__main__":
    main()
