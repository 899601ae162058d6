#!/bin/sh
# Run in the virtual machine (boot.sh) beside copepod-test (the agent's unit tests), copepod,
# copepod-sandbox, hog.wasm and a static busybox: the tests of control groups, with both drivers, an
# ordinary pod by a containerd that has systemd make its groups, and what they leave.
version=$(stat -fc %T /sys/fs/cgroup)
echo "== $(systemctl --version | sed 1q), Linux $(uname -r), $version: $(cut -d' ' -f1 /proc/uptime) s after the start"
export RUST_MIN_STACK=16777216 COPEPOD_SANDBOX=/opt/copepod-sandbox HOME=/root
dmesg -n 1
failed=
# Unit tests that need nothing else.
for room in linux::cgroup linux::systemd worker::cgroup; do
    ./copepod-test --color never "$room" || failed="$failed $room"
done
# A real sandbox in the groups.
COPEPOD_HOG=$(./copepod compile -o json hog.wasm 2>/dev/null | sed -n 's/.*"artefact": *"\([^"]*\)".*/\1/p')
export COPEPOD_HOG
./copepod-test --color never runtime::wasm::group_test || failed="$failed sandbox"
# Nothing is left.
units=$(systemctl list-units --all --plain --no-legend --no-pager 'copepod*' 'kubepods*')
groups=$(find /sys/fs/cgroup -type d \( -name 'copepod*' -o -name '*kubepods*' \))
[ -z "$units$groups" ] || { echo "left behind: $units $groups"; failed="$failed left"; }
# An ordinary pod: the image that its sandbox and its containers have is busybox alone.
image() {
    mkdir -p root/bin root/proc root/dev root/etc root/sys root/tmp
    cp busybox root/bin/
    for name in sh sleep; do ln -sf busybox root/bin/$name; done
    tar -C root -cf layer.tar .
    digest=$(sha256sum layer.tar | cut -d' ' -f1)
    printf '{"architecture":"%s","os":"linux","config":{"Cmd":["/bin/sleep","1000000"],"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{}]}' \
        "$(dpkg --print-architecture)" "$digest" >config.json
    printf '[{"Config":"config.json","RepoTags":["docker.io/library/busybox:test"],"Layers":["layer.tar"]}]' >manifest.json
    tar -cf image.tar manifest.json config.json layer.tar
}
containerd_config() {
    cat <<END
version = 2
root = "/opt/containerd/root"
state = "/opt/containerd/state"
[grpc]
  address = "/opt/containerd/socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/busybox:test"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
END
}
image
mkdir containerd
containerd_config >containerd/config.toml
containerd --config containerd/config.toml >containerd/log 2>&1 &
containerd=$!
ready=
for _ in $(seq 100); do
    ctr -a /opt/containerd/socket version >/dev/null 2>&1 && ready=yes && break
    sleep 1
done
[ -n "$ready" ] && ctr -a /opt/containerd/socket -n k8s.io images import image.tar >/dev/null &&
    COPEPOD_CONTAINERD_SOCKET=/opt/containerd/socket ./copepod-test --color never --ignored --nocapture node::groups_test ||
    { failed="$failed ordinary"; tail -30 containerd/log; }
[ -z "$(ctr -a /opt/containerd/socket -n k8s.io containers ls -q)" ] || failed="$failed containers-left"
kill "$containerd"
wait "$containerd"
# What holds all pods together stays, as on a node; nothing is in it.
groups=$(find /sys/fs/cgroup -type d -path '*kubepods*' -name '*pod7a1b2c3d*')
[ -z "$groups" ] || { echo "left behind: $groups"; failed="$failed left"; }
systemctl stop kubepods.slice
echo "== control groups on $version: ${failed:-all passed}: $(cut -d' ' -f1 /proc/uptime) s after the start"
[ -z "$failed" ]
