#!/bin/sh
# Records director.pcap: what arrives at a one-armed LVS-NAT director while curl fetches pages
# from the VIP. The LVS-NAT lab is built in network namespaces with real nginx and curl; the
# kernel's nftables stands in for the director, so that the capture is independent of lvscore.
# Needs root, iproute2, nftables, nginx, curl, tcpdump, ethtool.
set -eu
out=${1:-$(dirname "$0")/director.pcap}
work=$(mktemp -d)
nodes="client route lan director rs01 rs02"
for node in $nodes; do ip netns add "lvsrec-$node"; done
on() { where=lvsrec-$1; shift; ip netns exec "$where" "$@"; }
finish() {
    for pid in $(cat "$work"/*.pid 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
    for node in $nodes; do ip netns del "lvsrec-$node"; done
    rm -r "$work"
}
trap finish EXIT

link() { # NODE INTERFACE ADDRESS PEER-NODE PEER-INTERFACE
    ip link add "$2" netns "lvsrec-$1" type veth peer name "$5" netns "lvsrec-$4"
    [ -z "$3" ] || on "$1" ip address add "$3" dev "$2"
    on "$1" ip link set "$2" up
    on "$4" ip link set "$5" up
    on "$1" ethtool -K "$2" tx off gro off gso off tso off >/dev/null
    on "$4" ethtool -K "$5" tx off gro off gso off tso off >/dev/null
}
on lan ip link add br0 type bridge
on lan ip link set br0 up
link client eth0 10.0.0.100/24 route eth0
on route ip address add 10.0.0.200/24 dev eth0
for host in route:172.16.1.200/24 director:172.16.1.3/24 rs01:172.16.1.7/24 rs02:172.16.1.8/24; do
    node=${host%%:*}
    link "$node" eth1 "${host#*:}" lan "$node"
    on lan ip link set "$node" master br0
done
on director ip address add 172.16.1.100/24 dev eth1
on client ip route add default via 10.0.0.200
on director ip route add default via 172.16.1.200
for node in rs01 rs02; do on "$node" ip route add default via 172.16.1.3; done
for node in route director; do
    on "$node" sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 \
        net.ipv4.conf.eth1.send_redirects=0
done
# rr, the server added last first: as the kernel's IPVS would schedule them.
on director nft -f - <<'NFT'
table ip nat {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 172.16.1.100 tcp dport 80 dnat to numgen inc mod 2 map { 0 : 172.16.1.8, 1 : 172.16.1.7 }
    }
}
NFT
for n in 1 2; do
    mkdir -p "$work/rs$n/www"
    echo "Web Page RS-Node$n" > "$work/rs$n/www/index.html"
    head -c 150000 /dev/zero | tr '\0' "$n" > "$work/rs$n/www/large.html"
    cat > "$work/rs$n/nginx.conf" <<CONF
pid $work/rs$n.pid;
error_log $work/rs$n/error.log;
events {}
http {
    access_log off;
    server { listen 80; server_name lvs.birenchong.cn; root $work/rs$n/www; }
}
CONF
    chmod -R a+rX "$work"
    on "rs0$n" nginx -c "$work/rs$n/nginx.conf" -p "$work/rs$n"
done
on director tcpdump -i eth1 -Q in -U -w "$work/capture" ip 2>/dev/null &
echo $! > "$work/tcpdump.pid"
sleep 1
for i in 1 2 3 4 5 6 7 8; do
    on client curl -sS -H Host:lvs.birenchong.cn http://172.16.1.100/
done
on client curl -sS -o /dev/null -H Host:lvs.birenchong.cn http://172.16.1.100/large.html
on client curl -sS -o /dev/null -H Host:lvs.birenchong.cn http://172.16.1.100/large.html
on client ping -q -c 2 172.16.1.100 >/dev/null
sleep 1
kill "$(cat "$work/tcpdump.pid")"
wait 2>/dev/null || true
cp "$work/capture" "$out"
