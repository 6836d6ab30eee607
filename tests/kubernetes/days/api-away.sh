# No API server for two minutes, in which a daemon is killed and started again.

away() {
    local process
    "$here/control-plane" stop apiserver
    sleep 30
    process=$(daemon_process 3)
    kill -KILL "$process"
    await 10 "end of the daemon" has_ended "$process"
    await 60 "ready daemon" is_ready 3
    sleep 80
    "$here/control-plane" start apiserver
}
loss "no API server for two minutes, a daemon killed meanwhile" 1 3 away
await 60 "pods that talk" all_talk
rolled_out
