# A directory of policies is put on in a cluster of its own, beside the one that there is, while a stream runs,
# and changed under it; the stream, which they allow, loses nothing, and whom they do not allow is kept out.

export COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME-policies
trap 'code=$?; [ $code = 0 ] || compose logs --tail 40 >&2; cluster_down; exit $code' EXIT
trap 'exit 130' INT TERM

cluster_up "$COMPOSE_PROJECT_NAME"
assert_all_talk
policies=$CULVERT_ETC/policies
mkdir "$policies"

# write NAME: puts standard input there in one step, as an administrator's tools do.
write() {
    cat >"$policies/.$1" && mv "$policies/.$1" "$policies/$1"
}

# allow RULES: what comes to node2-pod1 is isolated but for these rules.
allow() {
    write web.yaml <<YAML
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: web, namespace: default }
spec:
  podSelector: { matchLabels: { pod: node2-pod1 } }
  policyTypes: [Ingress]
  ingress: $1
YAML
}

# from_pod POD [PORT]: a rule.
from_pod() {
    local ports=
    [ $# = 1 ] || ports=", ports: [{ port: $2 }]"
    echo "{ from: [{ podSelector: { matchLabels: { pod: $1 } } }]$ports }"
}

# restart_daemons: one after the other, as for any other configuration.
restart_daemons() {
    local node
    for node in "${nodes[@]}"; do
        docker restart -t 10 "$(container "daemon${node#node}")" >/dev/null
        await "$SOON" "$node to be ready" is_ready "daemon${node#node}"
    done
}

# What an API server knows of the pods that are there.
while read -r node pod address; do
    write "$node-$pod.json" <<JSON
{ "apiVersion": "v1", "kind": "Pod",
  "metadata": { "name": "$node-$pod", "namespace": "default", "labels": { "pod": "$node-$pod" } },
  "spec": { "nodeName": "$node" }, "status": { "phase": "Running", "podIPs": [{ "ip": "$address" }] } }
JSON
done <<<"$(all_pods)"

start_stream node1 node2
printf '\n[policy]\ndirectory = "/etc/culvert/policies"\n' >>"$CULVERT_ETC/config.toml"
restart_daemons
server=$(address node2 pod1)
reaches node3 pod1 "$server" >/dev/null || fail "policies are on, and none is there"

allow "[$(from_pod node1-pod1 7000)]"
await "$SOON" "node3-pod1 to be kept out" cut_off node3 pod1 "$server"
cut_off node1 pod1 "$server" >/dev/null || fail "a rule with a port lets in a ping"
cut_off node2 pod2 "$server" >/dev/null || fail "a pod of the same node is let in"
reaches node2 pod2 "$(address node1 pod2)" >/dev/null || fail "a pod is kept out that no policy is about"

# Why, by the daemon that decides.
why=$(on daemon2 /bin/culvert explain "$(address node3 pod1)" "$server" --dport 7000 || true)
[[ $why == *"default/web"* ]] || fail "not explained: $why"

allow "[$(from_pod node1-pod1 7000), $(from_pod node3-pod1)]"
await "$SOON" "node3-pod1 to be let in" reaches node3 pod1 "$server"
cut_off node2 pod2 "$server" >/dev/null || fail "a pod of the same node is let in"
allow "[$(from_pod node1-pod1 7000)]"
await "$SOON" "node3-pod1 to be kept out again" cut_off node3 pod1 "$server"

# A pod starts under them, isolated before its first packet.
write new.yaml <<YAML
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: new, namespace: default }
spec: { podSelector: { matchLabels: { pod: node2-new } }, policyTypes: [Ingress, Egress] }
---
apiVersion: v1
kind: Pod
metadata: { name: node2-new, namespace: default, labels: { pod: node2-new } }
spec: { nodeName: node2 }
YAML
await "$SOON" "the pod to start" on node2 pod add new
cut_off node2 new "$(address node1 pod2)" >/dev/null || fail "the new pod is not isolated"
on node2 pod del new

# A daemon that starts while its directory is away goes on with what it knew.
mv "$policies" "$CULVERT_ETC/elsewhere"
docker restart -t 10 "$(container daemon2)" >/dev/null
await "$SOON" "daemon2 to be ready" is_ready daemon2
cut_off node3 pod1 "$server" >/dev/null || fail "open without its directory"
mv "$CULVERT_ETC/elsewhere" "$policies"
finish_stream

hits=$(on daemon2 /bin/culvert policy hits)
[[ $hits == *"default/web"* ]] || fail "no hits: $hits"

# What daemons warned of is that the directory was away, and nothing else.
for node in "${nodes[@]}"; do
    said=$(docker logs "$(container "daemon${node#node}")" 2>&1 | grep -E "WARN|ERROR|panicked" |
        grep -v "policies stay as they were" || true)
    [ -z "$said" ] || fail "the daemon of $node warned: $said"
done
