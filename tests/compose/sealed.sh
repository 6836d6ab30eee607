# The nodes of a cluster of its own, beside the one that there is, have to encrypt what they send one another:
# nobody speaks before the table has their keys, everybody after that, and a stream outlives its daemons.

export COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME-sealed CULVERT_SEALED_MODE=require
trap 'code=$?; [ $code = 0 ] || compose logs --tail 40 >&2; cluster_down; exit $code' EXIT
trap 'exit 130' INT TERM

cluster_up "$COMPOSE_PROJECT_NAME"
cut_off node1 pod1 "$(address node2 pod1)" >/dev/null || fail "a node without a key is spoken to"
share_keys
assert_all_talk

# The largest packet, unfragmented: 1438 bytes, and not one more.
size() {
    on node1 pod exec pod1 ping -n -c 3 -i 0.2 -W 2 -M do -s "$1" "$(address node3 pod1)" >/dev/null
}
size 1410
if size 1411 2>/dev/null; then fail "a packet of 1439 bytes is delivered"; fi

start_stream node1 node2
for node in 1 2; do
    compose restart -t 5 "daemon$node" >/dev/null 2>&1
    await "$SOON" "daemon$node to be ready" is_ready "daemon$node"
done
compose kill -s KILL daemon2 >/dev/null 2>&1
compose start daemon2 >/dev/null 2>&1
await "$SOON" "daemon2 to be ready again" is_ready daemon2
finish_stream
assert_all_talk >/dev/null

# What daemons warned of is that the table lacked their keys, and nothing else.
for node in "${nodes[@]}"; do
    said=$(docker logs "$(container "daemon${node#node}")" 2>&1 | grep -E "WARN|ERROR|panicked" |
        grep -v "this node's keys and the subnet table differ" || true)
    [ -z "$said" ] || fail "the daemon of $node warned: $said"
done
