#!/usr/bin/env bash
# Starts a node: containerd, kubelet and kube-proxy in namespaces of their own, so that ending the first process of them
# ends all of the node at once, as a power cut would.
#
#   tests/kubernetes/node.sh NUMBER
set -euo pipefail
# shellcheck source=env.sh
source "$(dirname "$0")/env.sh"
NODE=$1
ME=$NAME-$NODE
ADDRESS=$(node_ip "$NODE")
PODS=$(pods_of "$NODE")
MINE=$STATE/$NODE
SOCKET=$MINE/containerd.sock

main() {
    mkdir -p "$MINE"/{cni,containerd,run,kubelet,logs,container-logs,plugins,sbin}
    [ ! -x "$BIN/mount.nfs" ] || cp "$BIN/mount.nfs" "$MINE/sbin/"
    [ -e "/run/netns/$ME" ] || network
    configure
    cgroups
    nohup setsid nsenter --net="/run/netns/$ME" unshare --mount --uts --ipc --pid --fork --kill-child --mount-proc \
        bash "$MINE/init" >"$STATE/log/node-$NODE" 2>&1 </dev/null &
    echo $! >"$STATE/pid/node-$NODE"
}

network() {
    ip netns add "$ME"
    ip link add "node-$NODE" netns "$NAME" type veth peer name eth0 netns "$ME"
    in_control ip link set "node-$NODE" master nodes up
    in_control ip route replace "$PODS.0/24" via "$ADDRESS"
    in_node "$NODE" ip link set lo up
    in_node "$NODE" ip addr add "$ADDRESS/24" dev eth0
    in_node "$NODE" ip link set eth0 up
    in_node "$NODE" ip route add default via "$CONTROL_IP"
    in_node "$NODE" sysctl -qw net.ipv4.ip_forward=1
}

# Of cgroups v1 each controller has a tree of its own.
cgroups() {
    local tree
    for tree in /sys/fs/cgroup/*/; do
        case $tree in */unified/) continue ;; esac
        mkdir -p "$tree$ME"
        if [ -e "$tree$ME/cpuset.cpus" ]; then
            cat "${tree}cpuset.cpus" >"$tree$ME/cpuset.cpus"
            cat "${tree}cpuset.mems" >"$tree$ME/cpuset.mems"
        fi
    done
}

configure() {
    cat >"$MINE/cni/pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": {"type": "host-local",
        "dataDir": "$MINE/addresses", "ranges": [[{"subnet": "$PODS.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    # Root of this machine may lack CAP_SYS_RESOURCE, without which no process can be made less likely to be killed.
    cat >"$MINE/containerd.toml" <<TOML
version = 2
root = "$MINE/containerd"
state = "$MINE/run"
[grpc]
address = "$SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "test.local/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "$MINE/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
TOML
    # Nothing outside of the cluster is ever asked.
    echo "nameserver 127.0.0.1" >"$MINE/resolv.conf"
    cat >"$MINE/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $SECRETS/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $SECRETS/kubelet-$NODE.crt
tlsPrivateKeyFile: $SECRETS/kubelet-$NODE.key
containerRuntimeEndpoint: unix://$SOCKET
cgroupDriver: cgroupfs
cgroupRoot: /$ME
failCgroupV1: false
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
resolvConf: $MINE/resolv.conf
podLogsDir: $MINE/logs
volumePluginDir: $MINE/plugins
nodeStatusUpdateFrequency: 5s
failSwapOn: false
evictionHard: {memory.available: 200Mi, nodefs.available: 1Gi, imagefs.available: 1Gi}
imageGCHighThresholdPercent: 100
YAML
    cat >"$MINE/proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: $ADDRESS
hostnameOverride: node-$NODE
mode: nftables
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: $SECRETS/proxy.conf}
conntrack: {maxPerCore: 0}
YAML
    cat >"$MINE/init" <<INIT
set -eu
hostname node-$NODE
mount --make-rshared /
mkdir -p /var/log/containers /run/containerd /var/lib/kubelet /var/lib/cni
mount --bind "$MINE/container-logs" /var/log/containers
# Places that are in the programs: each node has its own, which end with it.
for folder in /run/containerd /var/lib/kubelet /var/lib/cni; do
    mount -t tmpfs node "\$folder"
done
# The kernel has no client for NFS.
mount -t overlay overlay -o "lowerdir=$MINE/sbin:/usr/sbin" /usr/sbin
containerd --config "$MINE/containerd.toml" >"$STATE/log/containerd-$NODE" 2>&1 &
until ctr -a "$SOCKET" version >/dev/null 2>&1; do sleep 0.2; done
for image in "$STATE"/images/*.tar; do
    ctr -a "$SOCKET" -n k8s.io image import "\$image"
done
"$BIN/kubelet" --config "$MINE/kubelet.yaml" --kubeconfig "$SECRETS/kubelet-$NODE.conf" --root-dir "$MINE/kubelet" \
    --hostname-override node-$NODE --node-ip $ADDRESS >"$STATE/log/kubelet-$NODE" 2>&1 &
"$BIN/kube-proxy" --config "$MINE/proxy.yaml" >"$STATE/log/proxy-$NODE" 2>&1 &
wait
INIT
}

main
