# Five more machines join while a stream runs: the daemons that are there follow the table.

file=$CULVERT_ETC/eight-nodes.yml
more_machines 4 8 >"$file"

start_stream node1 node2
cp "$CULVERT_ETC/table.toml" "$CULVERT_ETC/table.new"
for ((node = 4; node <= 8; node++)); do
    network=$(((node - 1) % 3 + 1))
    printf '\n[[node]]\nname = "node%s"\naddress = "%s"\nsubnets = ["10.244.%s.0/24"]\n' \
        "$node" "$CULVERT_UNDERLAY$network.1$node" "$node" >>"$CULVERT_ETC/table.new"
done
cp "$CULVERT_ETC/table.toml" "$CULVERT_ETC/table.three"
mv "$CULVERT_ETC/table.new" "$CULVERT_ETC/table.toml"
services=()
for ((node = 4; node <= 8; node++)); do services+=("node$node" "daemon$node"); done
COMPOSE_FILE=docker-compose.yml:$file compose up -d "${services[@]}" >/dev/null 2>&1
nodes=(node1 node2 node3 node4 node5 node6 node7 node8)
await 60 "all pods to be attached" pods_attached
await "$SOON" "every pod to answer every other" matrix
matrix
finish_stream

# Three again: to a pod of a node that is gone there is no way, and its sender is told so.
four=$(address node4 pod1)
nodes=(node1 node2 node3)
mv "$CULVERT_ETC/table.three" "$CULVERT_ETC/table.toml"
told_unreachable() {
    local said
    said=$(reaches node1 pod1 "$four" 2>&1) || true
    [[ $said == *nreachable* ]]
}
await "$SOON" "node1 to forget node4" told_unreachable
COMPOSE_FILE=docker-compose.yml:$file compose rm -sfv "${services[@]}" >/dev/null 2>&1
assert_all_talk >/dev/null
