#!/bin/sh
# Run in the virtual machine (boot.sh) beside copepod-test (the agent's unit tests), copepod,
# copepod-sandbox and hog.wasm: the tests of control groups, with both drivers, and what they leave.
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
echo "== control groups on $version: ${failed:-all passed}: $(cut -d' ' -f1 /proc/uptime) s after the start"
[ -z "$failed" ]
