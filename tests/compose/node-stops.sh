# A machine is switched off and on again: meanwhile the others talk, and afterwards it has pods again.

two=$(address node2 pod1)
compose stop -t 5 daemon2 node2 >/dev/null 2>&1
await "$SOON" "the others to talk" reaches node1 pod1 "$(address node3 pod1)"
if reaches node1 pod1 "$two" >/dev/null; then fail "a pod of a stopped machine answers"; fi
compose start node2 >/dev/null 2>&1
compose start daemon2 >/dev/null 2>&1
await "$SOON" "daemon2 to be ready" is_ready daemon2
await "$SOON" "all pods to be attached" pods_attached
assert_all_talk
