# Node 3 is drained, its Node deleted, and registered anew by its kubelet: with another podCIDR. The
# daemon waits until nobody holds an address of the former one, and names who does.

# subnet NODE
subnet() {
    kubectl get node "$1" -o 'jsonpath={.spec.podCIDR}'
}
has_subnet() {
    [ -n "$(subnet "$1")" ]
}
replace() {
    local before
    before=$(subnet node3)
    kubectl drain node3 --ignore-daemonsets --delete-emptydir-data --force --timeout=120s >/dev/null 2>&1
    kubectl delete node node3 >/dev/null
    stop 3 kubelet
    # Another Node gets what is free first, which is most likely what node3 had.
    kubectl create -f - >/dev/null <<<'{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "nobody"}}'
    await 60 "podCIDR of another Node" has_subnet nobody
    "$here/node" kubelet 3
    await 60 "podCIDR of node3" has_subnet node3
    kubectl delete node nobody >/dev/null
    [ "$(subnet node3)" != "$before" ] || fail "node3 has the podCIDR that it had, $before"
    echo "    podCIDR was $before, is $(subnet node3)"
}
loss "another Node deleted and registered" 1 2 replace
# Its code is another one while the node is not ready.
says_who() {
    { culvert 3 status 2>/dev/null || true; } | grep "addresses of .*days/pod-"
}
await 60 "word of the pod that holds an address" says_who
begin=$SECONDS
kubectl -n days delete pod -l app=pod --field-selector spec.nodeName=node3 >/dev/null
await 120 "pods that talk" all_talk
echo "    pods of node3 talk $((SECONDS - begin)) s after the one that held an address was deleted"
rolled_out
