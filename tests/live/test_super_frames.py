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
