# A node loses its network while the others go on; when it has it back, everything is as before.

device=$(on router ip -4 -o addr show to "$CULVERT_UNDERLAY"2.0/24 | awk '{ print $2 }')
two=$(address node2 pod1)
three=$(address node3 pod1)
start_stream node1 node2
on router ip link set "$device" down
await "$SOON" "node2 to be cut off" cut_off node1 pod1 "$two"
await "$SOON" "the others to talk" reaches node1 pod1 "$three"
await "$SOON" "pods of node2 to talk" reaches node2 pod1 "$(address node2 pod2)"
is_ready daemon2 || fail "the daemon of a node that was cut off gave up"
on router ip link set "$device" up
assert_all_talk >/dev/null
finish_stream
