# The table is in etcd, in a cluster of its own beside the one that there is: nobody writes a list, every
# node claims a subnet. etcd goes away and comes back while a stream runs, and a machine joins.

export COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME-etcd COMPOSE_PROFILES=etcd CULVERT_TABLE_SOURCE=etcd
trap 'code=$?; [ $code = 0 ] || compose logs --tail 40 >&2; cluster_down; exit $code' EXIT
trap 'exit 130' INT TERM

# follows DAEMON yes|no: whether it follows etcd now.
follows() {
    local status word=true
    [ "$2" = yes ] || word=false
    status=$(on "$1" /bin/culvert status --json)
    [[ $status == *"\"current\": $word"* ]]
}

# The pod subnets of a node, by its daemon.
subnets_of() {
    on "$1" /bin/culvert status --json | sed -n '/"subnets"/,/]/p' | grep -m 1 -o '[0-9.]*/[0-9]*'
}

cluster_up "$COMPOSE_PROJECT_NAME"
assert_all_talk

start_stream node1 node2
compose stop -t 5 etcd >/dev/null 2>&1
for node in "${nodes[@]}"; do
    await "$SOON" "$node to miss etcd" follows "daemon${node#node}" no
    is_ready "daemon${node#node}" || fail "$node is not ready without etcd"
done
assert_all_talk >/dev/null
# A daemon that starts now goes by what it knew.
docker restart -t 5 "$(container daemon3)" >/dev/null
await "$SOON" "daemon3 to be ready without etcd" is_ready daemon3
assert_all_talk >/dev/null
compose start etcd >/dev/null 2>&1
for node in "${nodes[@]}"; do await 60 "$node to follow etcd" follows "daemon${node#node}" yes; done

file=$CULVERT_ETC/joins.yml
more_machines 4 4 >"$file"
COMPOSE_FILE=docker-compose.yml:$file compose up -d node4 daemon4 >/dev/null 2>&1
nodes+=(node4)
await 60 "the pods of node4 to be attached" pods_attached
assert_all_talk
finish_stream

owned=$(for node in "${nodes[@]}"; do subnets_of "daemon${node#node}"; done)
[ "$(sort -u <<<"$owned" | wc -l)" = 4 ] || fail "not a subnet for each node: $owned"

# What daemons warned of is that etcd was away, and nothing else.
for node in "${nodes[@]}"; do
    said=$(docker logs "$(container "daemon${node#node}")" 2>&1 | grep -E "WARN|ERROR|panicked" |
        grep -v -e "the table source is away" -e "waiting for the subnet table" -e "starting with the last good table" || true)
    [ -z "$said" ] || fail "the daemon of $node warned: $said"
done
