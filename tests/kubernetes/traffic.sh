# Sourced: pods on every node, and what they lose while something happens. Nothing here asks the API
# server while it measures, because that may be what is away.

readonly tools=$repository/target/debug/kubernetes-tools

# A pod on each node, which does nothing: what is measured runs in its network from outside.
make_pods() {
    kubectl apply -f - >/dev/null <<'YAML'
apiVersion: v1
kind: Namespace
metadata: {name: days}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: pod, namespace: days}
spec:
  selector: {matchLabels: {app: pod}}
  template:
    metadata: {labels: {app: pod}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]
      containers: [{name: pod, image: "k8s.gcr.io/pause:3.2", imagePullPolicy: IfNotPresent}]
YAML
    kubectl -n days rollout status daemonset pod --timeout=120s >/dev/null
}

# addresses N: of the pod on a node, of each family, a line each.
addresses() {
    kubectl -n days get pods -l app=pod --field-selector "spec.nodeName=node$1,status.phase=Running" \
        -o 'jsonpath={range .items[0].status.podIPs[*]}{.ip}{"\n"}{end}'
}

# address N: of the pod on a node, the first one.
address() {
    addresses "$1" | head -1
}

# network N ADDRESS: the file in which the runtime of a node keeps the network of a pod.
network() {
    # shellcheck disable=SC2016 # expanded on the node
    on "$1" bash -c 'for at in /run/netns/*; do
        if nsenter --net="$at" ip -br addr show dev eth0 2>/dev/null | grep -q " $1/"; then echo "$at"; exit; fi
    done; exit 1' - "$2"
}

# loss WHAT FROM TO COMMAND…: a row of the table: what the pod on one node loses toward that on
# another while the command runs, and three seconds longer.
loss() {
    local what=$1 from=$2 to=$3 end=$state/end source target near far echo stream ping said lived=lived
    shift 3
    source=$(address "$from") target=$(address "$to")
    near=(nsenter --target "$(holder "$from")" --net --mount --uts -- nsenter "--net=$(network "$from" "$source")" --)
    far=(nsenter --target "$(holder "$to")" --net --mount --uts -- nsenter "--net=$(network "$to" "$target")" --)
    rm -f "$end"
    "${far[@]}" "$tools" echo "$(with_port "$target" 7000)" &
    echo=$!
    "${near[@]}" "$tools" stream "$(with_port "$target" 7000)" --until "$end" >"$log/stream" 2>&1 &
    stream=$!
    "${near[@]}" ping -n -q -i 0.01 "$target" >"$log/ping" 2>&1 &
    ping=$!
    sleep 2
    "$@"
    sleep 3
    touch "$end"
    kill -INT "$ping"
    wait "$ping" || true
    wait "$stream" || lived=ended
    kill "$echo"
    wait "$echo" 2>/dev/null || true
    said=$(sed -n 's/.*longest silence \([0-9]* ms\).*/\1/p' "$log/stream")
    printf '| %s | %s | %s | %s |\n' "$what" \
        "$(awk '/transmitted/ { print $1 - $4 " of " $1 }' "$log/ping")" "${said:-?}" "$lived"
}

# daemon_process N: of the daemon on a node, as the machine counts.
daemon_process() {
    local process
    for process in $(find /sys/fs/cgroup/{,*/}"$prefix-node$1" -name cgroup.procs -exec cat {} + 2>/dev/null | sort -u); do
        [ "$(tr '\0' ' ' <"/proc/$process/cmdline" 2>/dev/null)" != "/bin/culvert run " ] || echo "$process"
    done
}

# is_ready N: whether the node's daemon carries packets, by what the kubelet asks.
is_ready() {
    # shellcheck disable=SC2016 # expanded on the node
    on "$1" bash -c 'exec 3<>/dev/tcp/127.0.0.1/4791; printf "GET /readyz HTTP/1.0\r\n\r\n" >&3; read -r answer <&3
        [[ $answer == *200* ]]'
}

# talk FROM TO: whether the pods of two nodes hear one another, whatever addresses they have now.
talk() {
    local source target targets
    source=$(address "$1") && targets=$(addresses "$2") && [ -n "$source" ] && [ -n "$targets" ] || return 1
    source=$(network "$1" "$source") || return 1
    for target in $targets; do on "$1" nsenter --net="$source" ping -n -q -c 1 -W 1 "$target" || return 1; done
}

all_talk() {
    local one other
    for one in "${nodes[@]}"; do
        for other in "${nodes[@]}"; do [ "$one" = "$other" ] || talk "$one" "$other" || return 1; done
    done
}

# in_pod N COMMAND…: in the network of the pod on a node.
in_pod() {
    local network
    network=$(network "$1" "$(address "$1")") || return 1
    on "$1" nsenter --net="$network" -- "${@:2}"
}

# says POD ADDRESS PORT WHERE…: whether that pod's agnhost answers there.
says() {
    local said
    # shellcheck disable=SC2016 # expanded where it runs
    said=$("${@:4}" bash -c 'exec 3<>"/dev/tcp/$0/$1"; printf "GET /hostname HTTP/1.0\r\n\r\n" >&3
        tail -1 <&3' "$2" "$3")
    [ "$said" = "$1" ]
}

none_talk() {
    ! talk 1 3 && ! talk 2 1 && ! talk 3 2
}

# A policy comes into force, and goes again: what each daemon hears of the API server.
policies_hold() {
    kubectl apply -f - >/dev/null <<'YAML'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: days}
spec: {podSelector: {matchLabels: {app: pod}}, policyTypes: [Ingress]}
YAML
    await 30 "policy in force" none_talk
    kubectl -n days delete networkpolicy nobody >/dev/null
    await 30 "pods that talk without a policy" all_talk
}
