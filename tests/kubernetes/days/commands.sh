# What people type, with the real kubectl and the real API: on the node, and beside the cluster.

work=$state/commands
rm -rf "$work"
mkdir -p "$work"
ln -sf "$repository/target/debug/culvert" "$work/kubectl-culvert"
ln -sf "$repository/target/debug/culvert" "$work/culvert"

# works WHAT TEXT COMMAND…: it succeeds, and its output has the text.
works() {
    local what=$1 text=$2 code=0
    shift 2
    "$@" >"$work/said" 2>&1 || code=$?
    if [ "$code" != 0 ] || ! grep -qE -- "$text" "$work/said"; then
        echo "$what ends with $code, without \"$text\":" >&2
        cat "$work/said" >&2
        return 1
    fi
    echo "    $what: $(grep -E -m 1 -- "$text" "$work/said")"
}
beside() {
    PATH="$work:$PATH" outside "$@"
}

one=$(kubectl -n days get pods -l app=pod --field-selector spec.nodeName=node1 -o 'jsonpath={.items[0].metadata.name}')
three=$(kubectl -n days get pods -l app=pod --field-selector spec.nodeName=node3 -o 'jsonpath={.items[0].metadata.name}')

works "status on a node" ready culvert 1 status
works "doctor on a node" "pods|ok" culvert 1 doctor
works "explain of names on a node" node3 culvert 1 explain "days/$one" "days/$three"
works "explain of addresses on a node" node3 culvert 1 explain "$(address 1)" "$(address 3)"
works "trace on a node" node3 culvert 1 trace "days/$one" "days/$three"
works "ping on a node" node3 culvert 1 ping node3
works "ipam list on a node" "$(address 1)" culvert 1 ipam list
works "ipam check on a node" "" culvert 1 ipam check
works "policy hits on a node" "" culvert 1 policy hits
works "kubectl culvert status" ready beside kubectl culvert status node2
works "kubectl culvert --all doctor" node3 beside kubectl culvert --all doctor
works "kubectl culvert explain" node3 beside kubectl culvert explain node1 "days/$one" "days/$three"
works "kubectl culvert trace" node3 beside kubectl culvert trace node1 "days/$one" "days/$three"
works "kubectl culvert support" "status" beside bash -c 'kubectl culvert support node1 --output - | tar -tf -'
works "culvert test kubernetes" "node3" beside culvert test kubernetes
works "culvert kubernetes manifest --discover" "${SERVICE_CIDR%%,*}" beside culvert kubernetes manifest --discover \
    --set "cidrs=$POD_CIDR" --set "serviceCidrs=$SERVICE_CIDR"

# What the page shows: three daemons, each ready. The program is started as `beside` does it, but in a
# process that can be ended.
ip netns exec "$prefix-switch" env KUBECONFIG="$pki/admin.conf" PATH="$work:$PATH" \
    culvert ui kubernetes --port 8787 >"$work/ui" 2>&1 &
page=$!
seen() {
    local token
    token=$(sed -n 's/.*:8787.#//p' "$work/ui" | head -1)
    beside curl -sN -m 8 -H "Authorization: Bearer $token" http://127.0.0.1:8787/events >"$work/events" || true
    [ "$(grep -o '"state":"ready"' "$work/events" | wc -l)" -ge 3 ]
}
await 60 "page of three nodes" seen
kill "$page"
wait "$page" 2>/dev/null || true
echo "    culvert ui kubernetes: three nodes ready"
