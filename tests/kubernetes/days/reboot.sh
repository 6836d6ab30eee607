# A power cut of node 3, and its start. The boot id is the machine's, so that the daemon takes it
# for a restart of everything but the kernel. Its pod and its connections are gone; others must not
# feel it.

reboot() {
    "$here/node" cut 3
    sleep 5
    "$here/node" start 3
    begin=$SECONDS
    await 180 "ready daemon" is_ready 3
    echo "    ready $((SECONDS - begin)) s after the node's start"
}
loss "another node cut off and started" 1 2 reboot
await 120 "pods that talk" all_talk
rolled_out
