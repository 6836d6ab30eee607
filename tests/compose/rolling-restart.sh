# The daemons are restarted one after the other while a TCP stream runs between two of the nodes:
# it goes on.

start_stream node1 node2
for node in 1 2 3; do
    compose restart -t 5 "daemon$node" >/dev/null 2>&1
    await "$SOON" "daemon$node to be ready" is_ready "daemon$node"
    assert_all_talk >/dev/null
done
# The one way that a daemon cannot prepare for.
compose kill -s KILL daemon2 >/dev/null 2>&1
compose start daemon2 >/dev/null 2>&1
await "$SOON" "daemon2 to be ready again" is_ready daemon2
finish_stream
assert_all_talk >/dev/null
