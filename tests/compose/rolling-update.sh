# As a DaemonSet with a surge replaces a daemon: the new one stands by, the old one is told to stop,
# and the new one takes over. A TCP stream runs on, and pings say how long the gap was.

successor=$COMPOSE_PROJECT_NAME-successor
start_stream node1 node2
on node1 pod exec pod2 ping -n -q -i 0.02 -w 6 "$(address node2 pod2)" >"$CULVERT_ETC/pings" &
pings=$!

# Compose keeps one daemon for each node; the engine is asked for the one beside it.
old=$(container daemon1)
docker run -d --name "$successor" --label "com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --network "container:$(container node1)" --volumes-from "$old" --device /dev/net/tun \
    --read-only --cap-drop ALL --cap-add NET_ADMIN --security-opt no-new-privileges:true \
    --env CULVERT_NODE_NAME=node1 --entrypoint /bin/culvert \
    "$(docker inspect --format '{{ .Image }}' "$old")" run >/dev/null
await "$SOON" "the new daemon to stand by" has_said "$successor" "standing by"
is_ready daemon1 || fail "the old daemon no longer serves"
docker stop -t 10 "$old" >/dev/null
await "$SOON" "the new daemon to be ready" has_said "$successor" "INFO ready"

wait "$pings" || true
echo "pings at 20 ms: $(grep transmitted "$CULVERT_ETC/pings")"
finish_stream

# Back to what compose knows, in the same way.
compose start daemon1 >/dev/null 2>&1
docker stop -t 10 "$successor" >/dev/null
await "$SOON" "daemon1 to be ready" is_ready daemon1
docker rm -v "$successor" >/dev/null
assert_all_talk >/dev/null
