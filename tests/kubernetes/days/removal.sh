# The way out of docs/kubernetes.md. The machine's own are what a node has left: no device, no rule,
# no plugin.

documents() {
    "$repository/target/debug/culvert" kubernetes manifest --remove --set "image=$IMAGE"
}
kubectl -n culvert delete daemonset culvert --ignore-not-found >/dev/null
no_daemon() {
    [ -z "$(daemon_process 1)$(daemon_process 2)$(daemon_process 3)" ]
}
await 60 "end of all daemons" no_daemon
documents | kubectl apply -f - >/dev/null
kubectl -n culvert rollout status daemonset culvert-remove --timeout=120s >/dev/null
for node in "${nodes[@]}"; do
    left=$(
        on "$node" ip -br link | grep -E "^culvert" || true
        on "$node" nft list tables | grep culvert || true
        on "$node" bash -c 'ip route; ip -6 route' | grep -e "^10\.244\." -e "^fd00:10:244:" || true
        on "$node" ls /etc/cni/net.d /opt/cni/bin | grep -v -e ':$' -e '^$' || true
    )
    [ -z "$left" ] || fail "node$node has still: $left"
done
documents | kubectl delete -f - >/dev/null
"$here/install" | kubectl delete --ignore-not-found -f - >/dev/null
kubectl annotate nodes --all culvert.dev/{address,codec,port,public-key}- >/dev/null
! kubectl get nodes -o 'jsonpath={.items[*].metadata.annotations}' | grep culvert.dev/ ||
    fail "Nodes have annotations of ours"
echo "| removal | nothing left on three nodes | | |"

# And in again, with the pods that were there made anew.
"$here/install" | kubectl apply -f - >/dev/null
rolled_out
kubectl delete pod --all-namespaces --all --force --grace-period=0 >/dev/null 2>&1 || true
rolled_out
kubectl -n days rollout status daemonset pod --timeout=120s >/dev/null
await 60 "pods that talk" all_talk
