# The disk of node 3 is full, by what its kubelet is told to call so: it evicts pods, and refuses
# new ones. The daemon is one that stays.

pressure() {
    stop 3 kubelet
    sed -i "s/nodefs.available: [0-9]*%/nodefs.available: $1%/" "$state/node3/etc/kubelet.yaml"
    "$here/node" kubelet 3
}
condition() {
    [ "$(kubectl get node node3 -o 'jsonpath={.status.conditions[?(@.type=="DiskPressure")].status}')" = "$1" ]
}
evicted() {
    kubectl -n days get events --field-selector reason=Evicted -o name | grep .
}
evict() {
    # The kubelet takes 100% for none at all.
    pressure 99
    await 120 "pressure" condition True
    await 120 "evicted pod" evicted
    sleep 20
    pressure 1
    await 120 "end of the pressure" condition False
}
before=$(daemon_process 3)
loss "pods of another node evicted under pressure of its disk" 1 2 evict
[ "$(daemon_process 3)" = "$before" ] || fail "the daemon was evicted"
# The kubelet has removed what no container used.
import_images 3
kubectl -n days delete pod --field-selector status.phase=Failed >/dev/null
kubectl -n days rollout status daemonset pod --timeout=180s >/dev/null
await 120 "pods that talk" all_talk
culvert 3 ipam check >/dev/null
rolled_out
