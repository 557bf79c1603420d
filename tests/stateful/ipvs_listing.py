"""What `ipvsadm -L -n` prints of a model, by its description."""

from ipvs_packets import ADDRESS, SCTP, TCP, UDP

SCHEDULER_FLAGS = (("fallback", "fallback"), ("with_port", "port"))
PROTOCOLS = {TCP: "TCP", UDP: "UDP", SCTP: "SCTP"}
FORWARD = {"masquerade": "Masq", "route": "Route", "tunnel": "Tunnel"}
TITLES = {
    "": "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
    "--persistent-conn": "  -> RemoteAddress:Port",
    "--thresholds": "  -> RemoteAddress:Port",
}


def name(model, address, port):
    text = str(ADDRESS[model.family](address))
    return f"{text}:{port}" if model.family == 4 else f"[{text}]:{port}"


def service_line(model, service):
    protocol, address, port = service.key
    if service.mark:
        line = f"FWM  {service.mark}" + (" IPv6" if model.family == 6 else "")
    else:
        line = f"{PROTOCOLS[protocol]:4} {name(model, address, port)}"
    line += f" {service.scheduler.kind}"
    if service.scheduler.kind in ("sh", "mh"):
        flags = [f"{service.scheduler.kind}-{text}" for attribute, text in SCHEDULER_FLAGS
                 if getattr(service.scheduler, attribute)]  # fmt: skip
        line += f" ({','.join(flags)})" if flags else ""
    if service.persistence:
        line += f" persistent {service.persistence}"
        if service.prefix != model.bits:
            mask = (1 << 32) - (1 << 32 - service.prefix) if model.family == 4 else 0
            line += f" mask {ADDRESS[4](mask) if model.family == 4 else service.prefix}"
    return line + (" ops" if service.one_packet else "")


def dest_line(model, dest, columns):
    line = f"  -> {name(model, dest.address, dest.port):28} "
    load = f"{dest.active:<10} {dest.inactive:<10}"
    if columns == "--persistent-conn":
        return f"{line}{dest.weight:<9} {dest.persistent:<11} {load}"
    if columns == "--thresholds":
        return f"{line}{dest.upper:<10} {dest.lower:<10} {load}"
    return f"{line}{FORWARD[dest.method]:7} {dest.weight:<6} {load}"


def order(service):
    protocol, address, port = service.key
    return (service.mark, 0, 0, 0) if service.mark else (0, protocol, address, port)


def listing(model, columns=""):
    """The lines below the two or three of the title, which differ in their widths alone."""
    lines = []
    for service in sorted(model.services.values(), key=order):
        lines.append(service_line(model, service))
        for dest in sorted(service.dests, key=lambda dest: (dest.address, dest.port)):
            lines.append(dest_line(model, dest, columns))
    return lines
