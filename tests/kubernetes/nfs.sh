#!/usr/bin/env bash
# Starts an NFS server for the cluster that runs, at $CONTROL_IP:/share: a program of its own, because this kernel has none.
# What it keeps is in $STATE/share, and is the shop's to write.
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"

main() {
    [ ! -e "$STATE/pid/nfs" ] || return 0
    mkdir -p "$STATE/share"
    chown 65532:65532 "$STATE/share"
    chmod 0770 "$STATE/share"
    cat >"$STATE/nfs.conf" <<CONF
NFS_CORE_PARAM {
    Protocols = 3; Bind_addr = $CONTROL_IP; NFS_Port = 2049; MNT_Port = 2050;
    Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true;
}
NFSV4 { RecoveryBackend = fs; }
EXPORT {
    Export_Id = 1; Path = $STATE/share; Pseudo = /share; Access_Type = RW; Squash = No_Root_Squash;
    SecType = sys; Protocols = 3; Transports = TCP; FSAL { Name = VFS; }
}
CONF
    # Its files are in folders of its own, which end with it.
    cat >"$STATE/nfs-init" <<INIT
set -eu
mount -t tmpfs nfs /run
mkdir -p /var/lib/nfs /run/rpcbind /run/ganesha
mount -t tmpfs nfs /var/lib/nfs
mkdir /var/lib/nfs/ganesha
rpcbind -f &
until rpcinfo -p 127.0.0.1 >/dev/null 2>&1; do sleep 0.1; done
ganesha.nfsd -F -f "$STATE/nfs.conf" -L "$STATE/log/nfs-server" -p /run/ganesha/pid -N NIV_EVENT
INIT
    start nfs unshare --mount --pid --fork --kill-child --mount-proc bash "$STATE/nfs-init"
    wait_for 30 "the NFS server" in_control bash -c "exec 3<>/dev/tcp/$CONTROL_IP/2049"
}

main
