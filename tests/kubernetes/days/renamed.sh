# Node 3 is drained and deleted, and its kubelet registers it by another name; then the other way
# round. Its disk is the same, with what the daemon keeps there of the node of the former name.

rename() {
    kubectl drain "$1" --ignore-daemonsets --delete-emptydir-data --force --timeout=120s >/dev/null 2>&1
    kubectl delete node "$1" >/dev/null
    stop 3 kubelet
    "$here/certificates" "$2" 3
    "$here/node" kubelet 3 "$2"
    await 60 "Node $2" kubectl get node "$2"
    rolled_out
    kubectl wait --for=condition=Ready "node/$2" --timeout=60s >/dev/null
}
# Other pods of its DaemonSet are there by now, unless one of the former name kept its address.
reached() {
    local target
    target=$(address "$1") && [ -n "$target" ] && in_pod 1 ping -n -q -c 1 -W 1 "$target"
}
loss "another node renamed" 1 2 rename node3 node4
await 120 "pod on node4 that is reached" reached 4
loss "and back" 1 2 rename node4 node3
kubectl -n days rollout status daemonset pod --timeout=120s >/dev/null
await 120 "pods that talk" all_talk
rolled_out
