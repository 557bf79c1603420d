"""Random rules in nft's language, such as both nft and lvscore take."""

import random

CHAINS = {
    ("nat", "prerouting", "dstnat"): ("dnat", "redirect", "accept", "return"),
    ("nat", "postrouting", "srcnat"): ("snat", "masquerade", "accept", "return"),
    ("filter", "prerouting", "mangle"): ("mark", "accept", "return"),
}
ADDRESSES = {"ip": ("10.0.0.{}", "172.16.{}.0/24"), "ip6": ("2001:db8::{:x}", "fd{:02x}::/16")}


def ruleset(seed, families=("ip", "ip6")):
    """The text of a ruleset: a table for each family with all its chains."""
    chance = random.Random(seed)
    tables = []
    for family in families:
        lines = [f"table {family} t{chance.randrange(9)} {{"]
        for number, ((kind, hook, priority), actions) in enumerate(CHAINS.items()):
            lines.append(f"chain c{number} {{ type {kind} hook {hook} priority {priority};")
            lines += [rule(chance, family, hook, actions) for _ in range(chance.randrange(5))]
            lines.append("}")
        tables.append("\n".join([*lines, "}"]))
    return "\n".join(tables) + "\n"


def rule(chance, family, hook, actions):
    transport = chance.choice(["tcp", "udp", "sctp", ""])
    matches = [
        f"{family} saddr {address(chance, family)}",
        f"{family} daddr {address(chance, family)}",
        interfaces(chance, "iifname" if hook == "prerouting" else "oifname"),
        f"meta mark {chance.choice(['', '!= '])}{chance.randrange(2**32)}",
        f"meta mark & {chance.randrange(1, 2**32):#x} {chance.choice(['==', '!='])} 0x5",
    ]
    chosen = chance.sample([*matches[:3], chance.choice(matches[3:])], chance.randrange(4))
    if transport:
        side = chance.choice(["sport", "dport"])
        chosen.append(f"{transport} {side} {ports(chance)}")
    elif chance.random() < 0.5:
        # nft writes that it is ICMP shorter in a family whose own it is.
        chosen.append(f"meta l4proto {chance.choice(['tcp', '{ udp, tcp }', '!= gre', '47'])}")
    if chance.random() < 0.4:
        chosen.append("counter packets 3 bytes 120" if chance.random() < 0.5 else "counter")
    chosen.append(action(chance, family, chance.choice(actions), transport))
    if chance.random() < 0.1:
        chosen.append(f'comment "number {chance.randrange(99)}"')
    return " ".join(chosen)


def address(chance, family):
    host, network = ADDRESSES[family]
    sign = chance.choice(["", "", "!= "])
    kind = chance.randrange(4)
    if kind == 0:
        return sign + host.format(chance.randrange(1, 200))
    if kind == 1:
        return sign + network.format(chance.randrange(1, 200))
    if kind == 2:
        low = chance.randrange(1, 100)
        return host.format(low) + "-" + host.format(low + chance.randrange(1, 90))
    return f"{{ {', '.join(host.format(n) for n in chance.sample(range(1, 200), 3))} }}"


def interfaces(chance, key):
    return f"{key} {chance.choice(['eth0', '!= eth1', 'eth*', '{ wan0, lan0 }'])}"


def ports(chance):
    sign = chance.choice(["", "", "!= "])
    kind = chance.randrange(3)
    low = chance.randrange(1, 60000)
    if kind == 0:
        return f"{sign}{low}"
    if kind == 1:
        return f"{sign}{low}-{low + chance.randrange(1, 999)}"
    several = [str(chance.randrange(1, 200)) for _ in range(chance.randrange(2, 6))]
    if chance.random() < 0.5:
        several.append(f"{low}-{low + 9}")
    return f"{sign}{{ {', '.join(dict.fromkeys(several))} }}"


def action(chance, family, name, transport):
    if name in ("accept", "return"):
        return name
    if name == "mark":
        bits = chance.randrange(2**32)
        return "meta mark set " + chance.choice(
            [f"{bits}", f"meta mark | {bits:#x}", f"mark and {bits:#x}", f"mark ^ {bits:#x}"]
        )
    fully = " fully-random" if name in ("snat", "masquerade") else ""
    flags = chance.choice(["", " random", fully])
    port = f":{chance.randrange(1, 9999)}" if transport and chance.random() < 0.5 else ""
    if name in ("masquerade", "redirect"):
        return f"{name}{f' to {port}' if port else ''}{flags}"
    flags += chance.choice(["", "," if flags else " "]) and (
        ",persistent" if flags else " persistent"
    )
    low = chance.randrange(1, 99) * 2 + 1
    first = ADDRESSES[family][0].format(low)
    last = ADDRESSES[family][0].format(low + 2)
    if family == "ip6" and port:
        first, last = f"[{first}]", f"[{last}]"
    return f"{name} to {first}{chance.choice(['', f'-{last}'])}{port}{flags}"
