"""Super-frames in a ring of their own, between shorter frames, and what a full ring leaves out."""

from namespaces import in_namespace

PAIR = """
import select, socket, struct, subprocess
subprocess.run("ip link add s0 type veth peer name s1; sysctl -qw net.ipv6.conf.s0.disable_ipv6=1 "
               "net.ipv6.conf.s1.disable_ipv6=1; ip link set s0 up; ip link set s1 up",
               shell=True, check=True)
peer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
peer.setsockopt(263, 15, 1)      # PACKET_VNET_HDR
peer.setsockopt(1, 32, 1 << 26)  # SO_SNDBUFFORCE
peer.bind(("s1", 0))

def frame(to, number, size):
    "A segment of TCP with a number, and so much payload, which a port may cut into segments."
    head = struct.pack("BBHHHH", 1, 1, 54, 1448, 34, 16) if size > 1448 else bytes(10)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + size, 0, 0x4000, 64, 6, 0, bytes([10, 0, 0, 1]),
                     bytes([10, 0, 0, 2]))
    tcp = struct.pack("!HHIIBBHHH", 1024, 80, number, 0, 0x50, 16, 9, 0, 0)
    return head + to + bytes([2, 0, 0, 0, 0, 9]) + b"\\x08\\0" + ip + tcp + bytes(size)
"""


def test_they_keep_their_place_among_shorter_frames(lab):
    """Both rings go round, and what waits for one descriptor hears of either."""
    said = in_namespace(
        lab, "director",
        PAIR + """
with lvscore.open_interface("s0", backend="ring") as ring:
    sizes = [0, 60000, 1448, 3000, 100, 100, 65000, 5000, 40000, 0, 0]
    sent, came, heard = 0, [], 0
    for turn in range(200):
        count = turn % 50 + 1
        for number in range(sent, sent + count):
            peer.send(frame(ring.mac, number, sizes[number % 11]))
        sent += count
        heard += bool(select.select([ring], [], [], 1)[0])
        while len(batch := ring.receive(0)):
            came += [(struct.unpack_from("!I", one, 38)[0], len(one) - 54) for one in batch]
    print(came == [(n, sizes[n % 11]) for n in range(sent)], sent, heard, ring.statistics)
""",
    )  # fmt: skip
    lab.run("director", "ip", "link", "del", "s0")
    assert said.startswith("True 5100 200 {'received': 5100,"), said


def test_what_there_was_no_room_for_is_told(lab):
    """Nobody looks while frames come: what is not there afterwards was dropped, of whatever length;
    it is counted once, and known after the interface is closed."""
    said = in_namespace(
        lab, "director",
        PAIR + """
subprocess.run("ip tuntap add t0 mode tap; sysctl -qw net.ipv6.conf.t0.disable_ipv6=1; "
               "ip link set t0 up", shell=True, check=True)
for name, backend, mode, size, count in (
    ("s0", "ring", "latency", 100, 6000), ("s0", "ring", "latency", 60000, 500),
    ("s0", "ring", "throughput", 60000, 1000), ("s0", "copy", "latency", 60000, 2000),
    ("s0", "xdp", "latency", 100, 4000), ("t0", "tap", "latency", 100, 3000),
):
    with lvscore.open_interface(name, backend=backend, mode=mode) as port:
        peer.bind(("s1" if name == "s0" else name, 0))
        for number in range(count):
            peer.send(frame(port.mac, number, size))
        while len(port.receive(0)):
            pass
        first = port.statistics
        peer.send(frame(port.mac, 0, size))
        select.select([port], [], [], 1)
        while len(port.receive(0)):
            pass
        second = port.statistics
    print(backend, first["received"] > 0, first["dropped"] > 0,
          count - first["received"] - first["dropped"],
          second["received"] - first["received"], second["dropped"] - first["dropped"],
          port.statistics == second)
""",
    )  # fmt: skip
    for device in ("s0", "t0"):
        lab.run("director", "ip", "link", "del", device)
    assert said.splitlines() == [
        f"{backend} True True 0 1 0 True"
        for backend in ("ring", "ring", "ring", "copy", "xdp", "tap")
    ]
