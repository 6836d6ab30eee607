# `culvert test compose`, as somebody types it on the machine with the engine: all is well, and when a daemon
# is gone it says which pods do not reach which.

try() {
    "${as_owner[@]}" "$CULVERT" test compose --project "$COMPOSE_PROJECT_NAME" --patience 3000
}

said=$(try) || fail "$said"
grep -q "ok    30 of 30 pairs" <<<"$said" || fail "$said"

compose kill -s KILL daemon2 >/dev/null 2>&1
code=0
said=$(try) || code=$?
[ "$code" = 3 ] || fail "it ended with $code: $said"
grep -Eq "node1-pod1 to node2-pod1, 10\.244\.2\.[0-9]+: a datagram: lost" <<<"$said" || fail "$said"
grep -q "FAIL  14 of 30 pairs" <<<"$said" || fail "$said"

compose start daemon2 >/dev/null 2>&1
await "$SOON" "daemon2 to be ready again" is_ready daemon2
assert_all_talk >/dev/null
