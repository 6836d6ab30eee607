# Node 3 is drained, its Node deleted, and registered anew by its kubelet: with another podCIDR. The
# daemon waits until nobody holds an address of the former one, and names who does.

subnet() {
    kubectl get node node3 -o 'jsonpath={.spec.podCIDR}'
}
replace() {
    local before
    before=$(subnet)
    kubectl drain node3 --ignore-daemonsets --delete-emptydir-data --force --timeout=120s >/dev/null 2>&1
    kubectl delete node node3 >/dev/null
    stop 3 kubelet
    "$here/node" kubelet 3
    await 60 "Node node3" kubectl get node node3
    # shellcheck disable=SC2317 # called by await
    has_subnet() {
        [ -n "$(subnet)" ]
    }
    await 60 "podCIDR of node3" has_subnet
    echo "    podCIDR was $before, is $(subnet)"
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
