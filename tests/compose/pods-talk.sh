# Every pod reaches every other, with its own address, over an underlay that knows no pod network.

matrix

# The underlay: neither the router nor a node knows the way to another node's pods.
if on router ip route get 10.244.2.2 2>/dev/null; then fail "the router knows pods"; fi
routes=$(on node1 ip -4 route show proto 207)
[ "$(wc -l <<<"$routes")" = 1 ] || fail "node1 has more than the one overlay route: $routes"

# The largest packet of the overlay, unfragmented, in both directions.
on node1 pod exec pod1 ping -n -c 3 -i 0.2 -W 2 -M do -s 1436 "$(address node3 pod1)" >/dev/null

# A TCP stream, every byte checked.
start_stream node1 node2
sleep 1
finish_stream
