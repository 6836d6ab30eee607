# Sourced by every script here: the shape of the cluster, and the words that all of them use.
#
# A node is a network, a mount and a UTS namespace, with directories of its own in place of what
# nodes must not share. Everything that a cluster leaves on the machine while it is up is in $state,
# in network namespaces whose names begin with $prefix, and in cgroups of the same names.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
repository=${here%/tests/kubernetes}
readonly repository
# The programs of Kubernetes, and archives of images in its directory `images`.
readonly bin=${KUBE_BIN:?name the directory with the programs of Kubernetes}
readonly state=${KUBE_STATE:-/var/tmp/culvert-test-kubernetes}
readonly pki=$state/pki log=$state/log
readonly prefix=culvert-k8s
readonly nodes=(1 2 3)

# The families of addresses of nodes, pods and Services, the first one first: 4, 6, 46 or 64.
readonly families=${KUBE_FAMILIES:-4}

# by_family IPV4 IPV6: what of it belongs to the families that there are, with commas between.
by_family() {
    local place all=
    for ((place = 0; place < ${#families}; place++)); do
        if [ "${families:place:1}" = 4 ]; then all+=,$1; else all+=,$2; fi
    done
    echo "${all:1}"
}

# The network between the nodes: the switch ends with 1, node N with 1N. The control plane is on
# node 1.
node_addresses() {
    by_family "192.168.66.1$1" "fd00:192:168:66::1$1"
}
# node_address N: its first one.
node_address() {
    local all
    all=$(node_addresses "$1")
    echo "${all%%,*}"
}
# assign NAMESPACE DEVICE ADDRESSES: gives these to a device, with commas between them.
assign() {
    local address all
    IFS=, read -ra all <<<"$3"
    for address in "${all[@]}"; do
        if [[ $address == *:* ]]; then
            ip -n "$1" addr add "$address/64" dev "$2" nodad
        else
            ip -n "$1" addr add "$address/24" dev "$2"
        fi
    done
}
# with_port ADDRESS PORT
with_port() {
    if [[ $1 == *:* ]]; then echo "[$1]:$2"; else echo "$1:$2"; fi
}

POD_CIDR=$(by_family 10.244.0.0/16 fd00:10:244::/56)
SERVICE_CIDR=$(by_family 10.96.0.0/12 fd00:10:96::/112)
API_SERVICE=$(by_family 10.96.0.1 fd00:10:96::1)
DNS_SERVICE=$(by_family 10.96.0.10 fd00:10:96::a)
SWITCH=$(by_family 192.168.66.1 fd00:192:168:66::1)
API=https://$(with_port "$(node_address 1)" 6443)
readonly POD_CIDR SERVICE_CIDR SWITCH API API_SERVICE=${API_SERVICE%%,*} DNS_SERVICE=${DNS_SERVICE%%,*}

# The image of Culvert under two names, so that there is a version to change to.
readonly IMAGE=culvert:test-1 OTHER_IMAGE=culvert:test-2

export PATH="$bin:$PATH:/usr/sbin:/sbin"

fail() {
    echo "$*" >&2
    return 1
}

# Of the version 1.N of the programs.
minor() {
    local version
    version=$("$bin/kubelet" --version)
    version=${version#*v1.}
    echo "${version%%.*}"
}

# Whether a feature gate has Kubernetes know of two families.
is_dual_by_gate() {
    [ ${#families} = 2 ] && [ "$(minor)" -lt 23 ]
}

# outside COMMAND…: beside the nodes, at the switch, where people with a kubeconfig are.
outside() {
    ip netns exec "$prefix-switch" env KUBECONFIG="$pki/admin.conf" "$@"
}

kubectl() {
    outside "$bin/kubectl" "$@"
}

# holder N: the process that keeps the namespaces of a node.
holder() {
    cat "$state/node$1/holder.pid"
}

# on N COMMAND…: on a node.
on() {
    local holder
    holder=$(holder "$1")
    shift
    nsenter --target "$holder" --net --mount --uts -- "$@"
}

# start N NAME COMMAND…: a daemon on a node, which ends with `stop`.
start() {
    local node=$1 name=$2 holder
    shift 2
    holder=$(holder "$node")
    setsid nsenter --target "$holder" --net --mount --uts -- "$@" \
        >>"$log/node$node-$name.log" 2>&1 </dev/null &
    echo $! >"$state/node$node/$name.pid"
}

# stop N NAME [SIGNAL]
stop() {
    local file=$state/node$1/$2.pid process
    [ -e "$file" ] || return 0
    process=$(cat "$file")
    kill "-${3:-TERM}" "$process" 2>/dev/null || true
    await 20 "end of $2 on node $1" has_ended "$process" 2>/dev/null || kill -KILL "$process"
    rm -f "$file"
}

has_ended() {
    ! kill -0 "$1" 2>/dev/null
}

# await SECONDS WHAT COMMAND…: until the command succeeds.
await() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "no $what" >&2; return 1; }
        sleep 0.2
    done
}

# daemon N: the name of the pod of Culvert on a node.
daemon() {
    kubectl -n culvert get pods -l app.kubernetes.io/name=culvert \
        --field-selector "spec.nodeName=node$1,status.phase=Running" \
        -o 'jsonpath={.items[0].metadata.name}'
}

# culvert N COMMAND…: in the container of the daemon of a node, as the documents say it.
culvert() {
    local pod
    pod=$(daemon "$1")
    shift
    kubectl -n culvert exec "$pod" -c culvert -- /bin/culvert "$@"
}

# Whether every daemon is the wanted one, and ready.
rolled_out() {
    kubectl -n culvert rollout status daemonset culvert --timeout="${1:-300}s" >/dev/null
}

# import_images N: what a node would pull.
import_images() {
    local archive
    for archive in "$state"/images/*.tar "$bin"/images/*.tar; do
        on "$1" ctr --namespace k8s.io images import "$archive" >/dev/null
    done
}
