#!/usr/bin/env bash
# boot.sh SCRIPT [FILE...]: runs SCRIPT as root in a virtual machine, beside the FILEs in /opt, prints
# what it prints, and ends with its exit code. The machine is Debian with systemd and cgroup v2 (v1:
# VM_KERNEL=systemd.unified_cgroup_hierarchy=0), and has containerd, not started. Its processor is
# emulated, so that no host has to lend one: about a tenth of the host's speed, 30 s to the script.
#
# What it boots is made once (a minute) and kept in ${XDG_CACHE_HOME:-~/.cache}/copepod/vm; what a run
# writes is forgotten. Needs root, and the packages of `make test-vm`.
set -euo pipefail

RELEASE=bookworm
PACKAGES=systemd,systemd-sysv,dbus,udev,iproute2,iptables,kmod,containerd,runc,containernetworking-plugins
# Seconds that a whole run may take, and MiB of memory.
TIMEOUT=${VM_TIMEOUT:-420}
MEMORY=${VM_MEMORY:-1024}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/copepod/vm
kernel=$(ls /boot/vmlinuz-*cloud-amd64 | sort -V | tail -1)
version=${kernel#*vmlinuz-}

# The unit that fetches the files from the second disk and runs the script.
unit='[Unit]
After=multi-user.target
[Service]
Type=oneshot
WorkingDirectory=/opt
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh -c "tar -xf /dev/vdb -C /opt && /opt/run; code=$$?; echo; echo vm-exit=$$code; systemctl poweroff"
[Install]
WantedBy=multi-user.target'

# Makes the disk that is booted, unless it is there, of these packages and this kernel.
make_disk() {
    local stamp root
    stamp=$(cat <(echo "$version") "$0" | sha256sum)
    [ "$stamp" = "$(cat "$cache/stamp" 2>/dev/null)" ] && [ -f "$cache/disk.img" ] && return
    rm -rf "$cache/stamp" "$cache/disk.img"
    root=$cache/root
    if [ "$RELEASE $PACKAGES" != "$(cat "$root/etc/copepod-vm" 2>/dev/null)" ]; then
        rm -rf "$root"
        debootstrap --variant=minbase --include="$PACKAGES" "$RELEASE" "$root" >"$cache/debootstrap.log"
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
        echo "$RELEASE $PACKAGES" >"$root/etc/copepod-vm"
    fi
    mkdir -p "$root/lib/modules"
    cp -a "/lib/modules/$version" "$root/lib/modules/"
    echo "$unit" >"$root/etc/systemd/system/run.service"
    ln -sf ../run.service "$root/etc/systemd/system/multi-user.target.wants/run.service"
    rm -f "$root/etc/systemd/system/multi-user.target.wants/containerd.service"
    # It would hang up the line that the script writes to.
    ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
    truncate -s 2G "$cache/disk.img"
    mke2fs -q -F -t ext4 -d "$root" "$cache/disk.img"
    echo "$stamp" >"$cache/stamp"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
make_disk
flock -u 9

own=$(mktemp -d)
trap 'rm -rf "$own"' EXIT
script=$1
shift
install -m 755 "$script" "$own/run"
files=(-C "$own" run)
for file in "$@"; do files+=(-C "$(realpath "$(dirname "$file")")" "$(basename "$file")"); done
tar -chf "$own/files.tar" "${files[@]}"
# Whole sectors, or the end is not seen.
truncate -s %1M "$own/files.tar"

# The kernel's check of its timer fails where the host is busy.
timeout "$TIMEOUT" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "$MEMORY" -nographic -no-reboot \
    -kernel "$kernel" -initrd "/boot/initrd.img-$version" \
    -append "console=ttyS0 root=/dev/vda rw panic=-1 systemd.show_status=0 quiet no_timer_check ${VM_KERNEL:-}" \
    -drive "file=$cache/disk.img,format=raw,if=virtio,snapshot=on" \
    -drive "file=$own/files.tar,format=raw,if=virtio,readonly=on" \
    -nic user,model=virtio-net-pci </dev/null | tr -d '\r' | tee "$own/output"
code=$(sed -n 's/^vm-exit=//p' "$own/output" | tail -1)
[ -n "$code" ] || echo "the virtual machine ended (or was ended after $TIMEOUT s) before the script did" >&2
exit "${code:-1}"
