# etcd becomes what it was at its last backup, as its documents and those of Kubernetes say: with no
# API server, and the programs of Kubernetes started anew afterwards. The daemons go on as they are,
# with versions in hand that the database has not come to yet.

backup=$state/etcd.backup
etcdctl() {
    ETCDCTL_API=3 on 1 etcdctl --endpoints=http://127.0.0.1:2379 "$@" >>"$log/etcdctl" 2>&1
}
restore() {
    local at node
    rm -rf "$backup"
    etcdctl snapshot save "$backup"
    # What the backup does not know: pods that have taken the place of others, and many changes.
    kubectl -n days delete pod -l app=pod --field-selector spec.nodeName=node2 >/dev/null
    kubectl -n days rollout status daemonset pod --timeout=120s >/dev/null
    for ((at = 0; at < 100; at++)); do
        kubectl annotate --overwrite nodes --all "days/at=$at" >/dev/null
    done
    "$here/control-plane" stop apiserver controller-manager scheduler etcd
    rm -rf "$state/etcd"
    etcdctl snapshot restore "$backup" --data-dir="$state/etcd" \
        --initial-cluster=default=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380
    "$here/control-plane" start etcd apiserver controller-manager scheduler
    for node in "${nodes[@]}"; do
        stop "$node" kubelet
        "$here/node" kubelet "$node"
    done
    rolled_out
}
loss "etcd restored from a backup" 1 3 restore
[ -z "$(kubectl get node node1 -o 'jsonpath={.metadata.annotations.days/at}')" ] || fail "etcd is as it was"
kubectl -n days rollout status daemonset pod --timeout=120s >/dev/null
await 120 "pods that talk" all_talk
policies_hold
for node in "${nodes[@]}"; do culvert "$node" ipam check >/dev/null; done
