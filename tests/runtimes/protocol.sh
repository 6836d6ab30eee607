#!/usr/bin/env bash
# The protocol of the CNI specification (1.0.0, sections 2 to 4; STATUS and GC of 1.1.0), step by step,
# as a runtime without any library would do it: a container on each of two nodes.
#
# usage: PLUGIN=… GUEST=… protocol.sh NETNS1 NETNS2 RUNDIR1 RUNDIR2 STATEDIR1 STATEDIR2
set -euo pipefail

nodes=("$1" "$2") runs=("$3" "$4") states=("$5" "$6")
work=$(mktemp -d)
names=("rtspec$$-1" "rtspec$$-2")
server=""

finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    for name in "${names[@]}"; do ip netns del "$name" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT

fail() {
    echo "protocol.sh: $*" >&2
    exit 1
}

# config NUMBER [PREVRESULT]: the plugin's own configuration, as made from a list (section 3).
config() {
    local previous=""
    [ -z "${2:-}" ] || previous=",\"prevResult\":$2"
    printf '{"cniVersion":"1.0.0","name":"pods","type":"culvert-cni","runDir":"%s","stateDir":"%s"%s}' \
        "${runs[$1]}" "${states[$1]}" "$previous"
}

# call VERB NUMBER [PREVRESULT]: one execution of the plugin on the node (section 2).
call() {
    config "$2" "${3:-}" | env -i PATH="$PATH" \
        CNI_COMMAND="$1" CNI_CONTAINERID="${names[$2]}" CNI_NETNS="/run/netns/${names[$2]}" \
        CNI_IFNAME=eth0 CNI_PATH="$(dirname "$PLUGIN")" \
        nsenter --net="${nodes[$2]}" "$PLUGIN"
}

# call_network VERB NUMBER [MEMBERS]: an execution that is about the whole network of the node.
call_network() {
    printf '{"cniVersion":"1.1.0","name":"pods","type":"culvert-cni","runDir":"%s","stateDir":"%s"%s}' \
        "${runs[$2]}" "${states[$2]}" "${3:-}" |
        env -i PATH="$PATH" CNI_COMMAND="$1" CNI_PATH="$(dirname "$PLUGIN")" \
            nsenter --net="${nodes[$2]}" "$PLUGIN"
}

# address RESULT: the first IPv4 address in a result.
address() {
    grep -o '"address":"[0-9.]*/' <<<"$1" | head -n 1 | cut -d '"' -f 4 | tr -d /
}

# 1. Which versions does the plugin speak?
version=$(echo '{"cniVersion":"1.0.0"}' | CNI_COMMAND=VERSION "$PLUGIN")
[[ $version == *'"supportedVersions"'*'"1.0.0"'* ]] || fail "VERSION says $version"

# 2. STATUS: both nodes can take containers, and one that is not there cannot.
for number in 0 1; do
    said=$(call_network STATUS "$number") || fail "STATUS: $said"
    [ -z "$said" ] || fail "a STATUS that succeeds says $said"
done
if error=$(runs=("$work/nowhere"); call_network STATUS 0 2>/dev/null); then
    fail "STATUS is content with a node that is not there"
fi
[[ $error == *'"code":50,'* ]] || fail "STATUS says $error"

# 3. ADD: the runtime makes the namespaces, and keeps the results.
results=()
for number in 0 1; do
    ip netns add "${names[$number]}"
    results+=("$(call ADD "$number")") || fail "ADD: ${results[*]}"
    [[ ${results[$number]} == *'"cniVersion":"1.0.0"'*'"sandbox"'* ]] ||
        fail "ADD says ${results[$number]}"
done

# 4. A second ADD of the same is refused, with an error document, and breaks nothing.
if error=$(call ADD 0 2>/dev/null); then fail "a second ADD succeeds"; fi
[[ $error == *'"code":'*'"msg":'* ]] || fail "a failed ADD says $error"

# 5. CHECK finds everything as ADD left it.
for number in 0 1; do call CHECK "$number" "${results[$number]}"; done

# 6. The containers reach each other across the nodes, each way.
for number in 0 1; do
    other=$((1 - number))
    ip netns exec "${names[$number]}" "$GUEST" serve 7 &
    server=$!
    target=$(address "${results[$number]}")
    answered=""
    for _ in $(seq 100); do
        if ip netns exec "${names[$other]}" "$GUEST" ask "$target:7" 2>/dev/null; then
            answered=1
            break
        fi
        sleep 0.1
    done
    kill "$server"
    wait "$server" 2>/dev/null || true
    server=""
    [ -n "$answered" ] || fail "nobody answers at $target"
done

# 7. CHECK notices what is wrong.
ip -n "${names[0]}" addr flush dev eth0
if error=$(call CHECK 0 "${results[0]}" 2>/dev/null); then fail "CHECK overlooks a lost address"; fi
[[ $error == *'"code":'* ]] || fail "a failed CHECK says $error"

# 8. GC: a missing list removes nothing; what is listed stays; what is not goes.
has_interface() { ip -n "${names[$1]}" link show eth0 >/dev/null 2>&1; }
if error=$(call_network GC 0 2>/dev/null); then fail "GC takes a missing list for an empty one"; fi
[[ $error == *'"code":7,'* ]] || fail "GC says $error"
mine="{\"containerID\":\"${names[0]}\",\"ifname\":\"eth0\"}"
call_network GC 0 ",\"cni.dev/valid-attachments\":[$mine]"
has_interface 0 || fail "GC removes what is listed"
call_network GC 1 ',"cni.dev/valid-attachments":[]'
! has_interface 1 || fail "GC leaves what is not listed"

# 9. DEL: with the previous result; again; without the namespace; without a result.
call DEL 0 "${results[0]}"
call DEL 0 "${results[0]}"
ip netns del "${names[1]}"
call DEL 1
