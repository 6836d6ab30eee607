# Sourced by tests/compose/run: what the scripts say, on top of the cluster's own words.

. deploy/compose/cluster.sh

# The program on the machine with the engine.
readonly CULVERT=${DIST:-target/dist}/culvert

# How long anything may take that takes a moment on an idle machine.
readonly SOON=30

fail() {
    echo "$*" >&2
    return 1
}

# address NODE POD
address() {
    on "$1" pod address "$2"
}

# reaches NODE POD ADDRESS: one ping.
reaches() {
    on "$1" pod exec "$2" ping -n -c 1 -W 1 "$3"
}

# cut_off NODE POD ADDRESS: one ping that nobody answers.
cut_off() {
    ! reaches "$@"
}

# assert_all_talk [ATTEMPTS]: every pod answers every other, soon at the latest.
assert_all_talk() {
    await "$SOON" "every pod to answer every other" matrix "${1:-1}" || { matrix "${1:-1}" >&2; return 1; }
}

# Whether a daemon carries packets. Its program is the only one in its container.
is_ready() {
    local status
    status=$(on "$1" /bin/culvert status --json)
    [[ $status == *'"ready": true'* ]]
}

# has_said CONTAINER TEXT: whether its log has the text.
has_said() {
    local log
    log=$(docker logs "$1" 2>&1)
    [[ $log == *"$2"* ]]
}

# Packets that the kernel of a node received and lost, or found damaged.
udp_errors() {
    on "$1" cat /proc/net/snmp | awk '
        $1 == "Udp:" && !known { for (i = 2; i <= NF; i++) name[i] = $i; known = 1; next }
        $1 == "Udp:" { for (i = 2; i <= NF; i++) if (name[i] ~ /(InErrors|RcvbufErrors|SndbufErrors|InCsumErrors|MemErrors)/) print name[i], $i }'
}

declare -A errors
remember_errors() {
    local node
    for node in "${nodes[@]}"; do errors[$node]=$(udp_errors "$node"); done
}

# Fails if a daemon has warned, which means that somebody should look, and here there is nothing to
# look at; or if a node has lost datagrams.
check_hygiene() {
    local node id now said clean=0
    for id in $(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
        said=$(docker logs "$id" 2>&1 | grep -E "WARN|ERROR|panicked" || true)
        if [ -n "$said" ]; then
            echo "a daemon warned: $said" >&2
            clean=1
        fi
    done
    for node in "${nodes[@]}"; do
        now=$(udp_errors "$node")
        if [ -z "$now" ]; then
            echo "the UDP counters of $node cannot be read" >&2
            clean=1
        # A machine that was started anew begins at zero.
        elif [ "$now" != "${errors[$node]}" ] && grep -qv ' 0$' <<<"$now"; then
            printf 'UDP errors of %s were\n%s\nand are\n%s\n' "$node" "${errors[$node]}" "$now" >&2
            clean=1
        fi
    done
    return "$clean"
}

# start_stream FROM-NODE TO-NODE: a checked TCP stream between their first pods, which lasts until
# finish_stream. Its results are in the sending node's /tmp.
start_stream() {
    local to
    stream_from=$1
    to=$(address "$2" pod1)
    on "$1" rm -f /tmp/stop /tmp/sent
    docker exec -d "$(container "$2")" pod exec pod1 compose-tools serve "$to:7000"
    docker exec -d "$(container "$1")" \
        bash -c "pod exec pod1 compose-tools send $to:7000 --until /tmp/stop >/tmp/sending 2>&1; echo code \$? >>/tmp/sending; mv /tmp/sending /tmp/sent"
}

# Ends the stream; fails unless every byte has arrived.
finish_stream() {
    on "$stream_from" bash -c "echo >/tmp/stop"
    await 60 "the stream to end" on "$stream_from" ls /tmp/sent
    local said
    said=$(on "$stream_from" cat /tmp/sent)
    grep -q "code 0" <<<"$said" || fail "the stream: $said"
    echo "stream: ${said%$'\n'*}"
}

# make_lossy: from here on the router loses one packet in 50, and is 10 ms late with the others. With
# netem where the kernel has it; else what it forwards makes a detour through a program of ours.
make_lossy() {
    local device netem=yes
    for device in eth0 eth1 eth2; do
        on router tc qdisc add dev "$device" root netem loss 2% delay 10ms 2>/dev/null || netem=no
    done
    if [ "$netem" = yes ]; then
        echo "loss and delay by netem"
        return
    fi
    echo "loss and delay by a program: this kernel has no netem"
    docker exec -d "$(container router)" compose-tools lossy --lose-one-in 50 --delay-ms 10
    await "$SOON" "the lossy link" on router ip route replace default dev lossy0 table 100
    for device in eth0 eth1 eth2; do on router ip rule add iif "$device" lookup 100 pref 100; done
}

# Ends what make_lossy began.
make_clean() {
    local device
    for device in eth0 eth1 eth2; do
        on router tc qdisc del dev "$device" root 2>/dev/null || true
        on router ip rule del iif "$device" lookup 100 pref 100 2>/dev/null || true
    done
}

# more_machines FIRST LAST: a compose file with machines beside the three that there are.
more_machines() {
    local node network
    echo "services:"
    for ((node = $1; node <= $2; node++)); do
        # Several nodes on one network, and several networks: both are ways to a peer.
        network=$(((node - 1) % 3 + 1))
        cat <<YAML
  node$node:
    image: ${CULVERT_NODE_IMAGE:-culvert-node}
    hostname: node$node
    command: [node]
    cap_add: [NET_ADMIN, SYS_ADMIN]
    security_opt: ["apparmor:unconfined", "seccomp:unconfined"]
    environment: { ROUTER: "$CULVERT_UNDERLAY$network.254" }
    networks: { underlay$network: { ipv4_address: "$CULVERT_UNDERLAY$network.1$node" } }
    volumes: ["run$node:/run/culvert", "state$node:/var/lib/culvert"]
  daemon$node:
    image: ${CULVERT_IMAGE:-culvert}
    entrypoint: [/bin/culvert, run]
    network_mode: "service:node$node"
    depends_on: [node$node]
    restart: on-failure
    read_only: true
    cap_drop: [ALL]
    cap_add: [NET_ADMIN]
    devices: [/dev/net/tun]
    environment:
      CULVERT_NODE_NAME: node$node
      CULVERT_TABLE_SOURCE: ${CULVERT_TABLE_SOURCE:-file}
      CULVERT_ETCD_ENDPOINTS: "http://${CULVERT_UNDERLAY}1.100:2379"
      CULVERT_SEALED_MODE: ${CULVERT_SEALED_MODE:-prefer}
    volumes:
      - "$CULVERT_ETC:/etc/culvert:ro"
      - "/proc/sys/net:/host/proc/sys/net"
      - "run$node:/run/culvert"
      - "state$node:/var/lib/culvert"
YAML
    done
    echo "volumes:"
    for ((node = $1; node <= $2; node++)); do printf '  run%s:\n  state%s:\n' "$node" "$node"; done
}
