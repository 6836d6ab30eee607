# Sourced: a cluster of docker-compose.yml with names, addresses and files of its own, so that any
# number of them can be there at once; it leaves nothing behind.

. deploy/compose/engine.sh

# The nodes of the subnet table that is in force; a test may add some.
nodes=(node1 node2 node3)

# How the private networks begin: one of 24 slots of the range for tests of network devices (RFC 2544),
# which no network that somebody uses has.
readonly SLOTS=24

# cluster_up NAME: brings the cluster up and waits for its pods.
cluster_up() {
    export COMPOSE_PROJECT_NAME=$1
    export CULVERT_ETC
    local slot first=$((RANDOM % SLOTS)) said
    for ((slot = first; slot < first + SLOTS; slot++)); do
        export CULVERT_UNDERLAY=198.18.$((slot % SLOTS + 1))
        CULVERT_ETC=$(mktemp -d)
        chmod 755 "$CULVERT_ETC"
        cp deploy/compose/etc/* "$CULVERT_ETC/"
        sed "s/192\.168\.10/$CULVERT_UNDERLAY/" deploy/compose/etc/table.toml >"$CULVERT_ETC/table.toml"
        if said=$(compose up -d 2>&1); then
            await 60 "all pods to be attached" pods_attached
            return
        fi
        # Another cluster has the slot; anything else is a failure.
        if ! grep -qi "overlaps" <<<"$said"; then break; fi
        cluster_down
    done
    printf '%s\n' "$said" >&2
    return 1
}

# share_keys: writes each daemon's public key into the subnet table, as docs/sealed.md has it.
share_keys() {
    local node line table=$CULVERT_ETC/table.toml
    cp "$table" "$table.new"
    for node in "${nodes[@]}"; do
        line=$(on "daemon${node#node}" /bin/culvert keys show | grep '^public_keys = ')
        sed -i "/^name = \"$node\"\$/a $line" "$table.new"
    done
    mv "$table.new" "$table"
}

# Removes whatever there is of the cluster, also what a test has added: everything has its label.
cluster_down() {
    [ -n "${COMPOSE_PROJECT_NAME:-}" ] || return 0
    local mine="label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"
    docker ps -aq --filter "$mine" | remove rm -f -v
    docker network ls -q --filter "$mine" | remove network rm
    docker volume ls -q --filter "$mine" | remove volume rm
    if [ -n "${CULVERT_ETC:-}" ]; then rm -rf "$CULVERT_ETC"; fi
}

# remove COMMAND…: gives docker what standard input names, if anything.
remove() {
    local names
    mapfile -t names
    [ ${#names[@]} = 0 ] || docker "$@" "${names[@]}" >/dev/null
}

# The container of a service that runs.
container() {
    docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
        --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False
}

# on SERVICE COMMAND…: runs a command in its container. Compose v1 takes a second to do that.
on() {
    local id
    id=$(container "$1")
    docker exec "${id:?$1 does not run}" "${@:2}"
}

# await SECONDS WHAT COMMAND…: repeats a command until it succeeds. Generous: a machine may be busy.
await() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            echo "waited $seconds s for $what, in vain" >&2
            return 1
        fi
        sleep 0.2
    done
}

# The names of a node's pods.
pods_of() {
    on "$1" pod list
}

pods_attached() {
    local node
    for node in "${nodes[@]}"; do
        [ "$(pods_of "$node" | wc -l)" = "${PODS:-2}" ] || return 1
    done
}

# Every pod's node, name and address, a line each.
all_pods() {
    local node
    for node in "${nodes[@]}"; do
        on "$node" bash -c "for pod in \$(pod list); do echo $node \$pod \$(pod address \$pod); done"
    done
}

# matrix [ATTEMPTS]: how long pings take, as a table. Fails if any pod does not answer any other, each
# time if it is asked more than once.
matrix() {
    local pods node lines=""
    pods=$(all_pods)
    for node in "${nodes[@]}"; do
        # shellcheck disable=SC2046  # each address is a word
        lines+=$(on "$node" pod reach "${1:-1}" $(awk '{ print $3 }' <<<"$pods") | sed "s/^/$node /")$'\n'
    done
    awk '
        NR == FNR { if (NF) { address[$1 "/" $2] = $3; order[++count] = $1 "/" $2 } ; next }
        NF == 4 { time[$1 "/" $2, $3] = $4 }
        END {
            printf "%-12s", "ms"
            for (to = 1; to <= count; to++) printf "%12s", order[to]
            print ""
            for (from = 1; from <= count; from++) {
                printf "%-12s", order[from]
                for (to = 1; to <= count; to++) {
                    answer = time[order[from], address[order[to]]]
                    if (answer == "" || answer == "none") { answer = "NONE"; silent++ }
                    printf "%12s", answer
                }
                print ""
            }
            if (!count) { print "there are no pods"; exit 1 }
            exit silent > 0
        }' <(echo "$pods") <(echo "$lines")
}
