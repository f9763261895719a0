# SPDX-License-Identifier: Apache-2.0
"""Containers in a guest: what Docker, containerd and runc need of its kernel, and a container with a
network that goes on over a pause."""
import hashlib
import io
import json
import os
import subprocess
import tarfile
import tempfile
import unittest

import lib

# Of the guest's own distribution, as it resolves what they need. No more than runs here is copied:
# with Docker's own programs it would be twice as much.
PACKAGES = "containerd,runc,iptables,busybox-static"
PARTS = """usr/bin/containerd usr/bin/containerd-shim-runc-v2 usr/bin/ctr usr/sbin/runc
    usr/sbin/xtables-nft-multi usr/sbin/xtables-legacy-multi bin/busybox usr/lib/x86_64-linux-gnu/xtables"""
LIBRARIES = "libxtables libip4tc libip6tc libnftnl libmnl libnetfilter_conntrack libnfnetlink libseccomp"

# What a module of the kernel makes possible, tried without naming the module.
LOADED_WHEN_NEEDED = {
    "veth": "ip link add x0 type veth peer name x1 && ip link del x0",
    "bridge": "ip link add x0 type bridge && ip link del x0",
    "vxlan": "ip link add x0 type vxlan id 7 dstport 4789 dev eth0 && ip link del x0",
    "macvlan": "ip link add x0 link eth0 type macvlan && ip link del x0",
    "dummy": "ip link add x0 type dummy && ip link del x0",
    "wireguard": "ip link add x0 type wireguard && ip link del x0",
    "tun": "ip tuntap add x0 mode tun && ip link del x0",
    "loop": "mkdir -p /mnt/x && truncate -s 16M /tmp/x.img && mke2fs -q /tmp/x.img && "
            "mount -o loop /tmp/x.img /mnt/x && umount /mnt/x",
    "overlay": "mkdir -p /tmp/x/l /tmp/x/u /tmp/x/w && mount -t overlay overlay "
               "-o lowerdir=/tmp/x/l,upperdir=/tmp/x/u,workdir=/tmp/x/w /mnt && umount /mnt",
    "sch_netem": "tc qdisc add dev lo root netem delay 1ms && tc qdisc del dev lo root",
    "nft_compat": "iptables -A FORWARD -m conntrack --ctstate RELATED -m comment --comment x -j ACCEPT",
    "nft_chain_nat": "iptables -t nat -A POSTROUTING -s 10.9.0.0/24 -m addrtype --dst-type LOCAL -j MASQUERADE",
    "iptable_nat": "iptables-legacy -t nat -A POSTROUTING -s 10.9.0.0/24 -j MASQUERADE",
    "ip6table_filter": "ip6tables-legacy -A FORWARD -j REJECT",
}
# As setup scripts of Docker, Kubernetes and VPNs name them.
BY_NAME = """overlay br_netfilter ip_tables iptable_filter ip6_tables nf_nat nf_conntrack xt_conntrack
    xt_MASQUERADE ip_vs ip_vs_rr ip_set nf_tables nft_masq nft_ct loop tun fuse ext4 dm_mod ipvlan"""


def programs():
    """A tar archive of them, made once for each cache of images."""
    cache = os.environ.get("STASIS_CACHE") or "/var/cache/stasis"
    key = hashlib.sha256(f"{PACKAGES} {PARTS} {LIBRARIES}".encode()).hexdigest()
    path = os.path.join(cache, f"test-containerd-{key}.tar")
    if os.path.exists(path):
        return path
    # Not .tmp-*: image builds remove these.
    with tempfile.TemporaryDirectory(dir=cache, prefix="test-making-") as folder:
        root = os.path.join(folder, "root")
        command = ["mmdebstrap", "--variant=extract", "--mode=root", "--architectures=amd64",
                   f"--include={PACKAGES}", "bookworm", root]
        proxy = subprocess.run(["apt-config", "dump", "Acquire::http::Proxy"], capture_output=True, check=True)
        if b'""' not in proxy.stdout and proxy.stdout:
            command.insert(1, "--aptopt=" + proxy.stdout.decode().strip().removesuffix(";"))
        if "STASIS_MIRROR" in os.environ:
            command.append(os.environ["STASIS_MIRROR"])
        done = subprocess.run(["unshare", "--mount", *command], capture_output=True, check=False)
        if done.returncode != 0:
            raise AssertionError(f"mmdebstrap: {done.stderr.decode()[-2000:]}")
        lib_dir = "usr/lib/x86_64-linux-gnu"
        names = PARTS.split() + [f"{lib_dir}/{n}" for n in os.listdir(os.path.join(root, lib_dir))
                                 if n.startswith(tuple(LIBRARIES.split()))]
        with tarfile.open(os.path.join(folder, "tar"), "w") as tar:
            for name in names:
                # Where Debian's /bin leads, so that nothing replaces the link.
                tar.add(os.path.join(root, name), name if name.startswith("usr/") else "usr/" + name)
        os.rename(os.path.join(folder, "tar"), path)
    return path


def image(busybox):
    """An image in OCI's layout (image-layout.md of its specification), as a tar archive: busybox alone."""
    def archive(files):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.mode = 0o755
                if isinstance(data, str):
                    entry.type, entry.linkname, data = tarfile.SYMTYPE, data, b""
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    blobs = {}

    def blob(data, kind):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        blobs["blobs/sha256/" + digest] = data
        return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}

    commands = "sh sleep wget httpd mkdir mv seq".split()
    layer = archive({"bin/busybox": busybox, **{"bin/" + c: "busybox" for c in commands}})
    part = blob(layer, "layer.v1.tar")
    config = blob({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
                   "rootfs": {"type": "layers", "diff_ids": [part["digest"]]}}, "config.v1+json")
    manifest = blob({"schemaVersion": 2, "config": config, "layers": [part]}, "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "test", "io.containerd.image.name": "test:1"}
    return archive({**blobs, "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
                    "index.json": json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()})


class Docker(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.before = cls.w.leftovers()
        cls.programs = programs()
        cls.s = cls.w.create(metadata={"test": "docker"})
        cls.w.cli("cp", cls.programs, f"{cls.s.id}:/tmp/programs.tar").ok()
        cls.root("tar -xf /tmp/programs.tar -C / --skip-old-files; rm /tmp/programs.tar; ldconfig; cd /usr/sbin;"
                 "for i in iptables ip6tables; do ln -sf xtables-nft-multi $i;"
                 "ln -sf xtables-legacy-multi $i-legacy; done")

    @classmethod
    def tearDownClass(cls):
        cls.s.delete()
        cls.w.settle(cls.before)

    @classmethod
    def root(cls, cmd, **body):
        return cls.s.sh(cmd, user="root", timeout_sec=100, **body)

    def test_modules_are_loaded_when_they_are_needed(self):
        script = "".join(f"{{ {cmd}; }} >/tmp/said 2>&1 || {{ echo {name}: $(cat /tmp/said); }};"
                         f"grep -q '^{name} ' /proc/modules || echo {name}: not loaded;"
                         for name, cmd in LOADED_WHEN_NEEDED.items())
        self.assertEqual(self.root(script), "")
        self.root("for c in iptables iptables-legacy ip6tables-legacy; do $c -F FORWARD;"
                  "$c -t nat -F POSTROUTING || :; done 2>/dev/null")

    def test_modules_are_loaded_by_name(self):
        self.root(f"modprobe -a {' '.join(BY_NAME.split())}")

    def test_what_is_expected_to_be_there(self):
        self.root("test -c /dev/net/tun && test -c /dev/fuse && test -c /dev/loop-control && test -d /dev/mqueue")
        self.root("modprobe br_netfilter && sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1")
        self.assertEqual(self.s.sh("cat /proc/self/cgroup"), "0::/user\n")
        self.assertEqual(self.s.sh("unshare -Urn id -u"), "0\n")
        # One tree, with limits to give on: what runs is in a cgroup of its own.
        self.assertEqual(self.s.sh("grep -c cgroup2 /proc/self/mountinfo"), "1\n")
        self.root("cd /sys/fs/cgroup && echo +cpu +memory +pids +io >cgroup.subtree_control && mkdir x && "
                  "echo 64M >x/memory.max && echo 10 >x/pids.max && rmdir x")

    def start_containerd(self):
        self.root("mkdir -p /etc/containerd; echo 'version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]'"
                  " >/etc/containerd/config.toml; setsid containerd >/tmp/containerd.log 2>&1 </dev/null &"
                  "for i in $(seq 400); do test -S /run/containerd/containerd.sock && exit; sleep 0.2; done;"
                  "tail /tmp/containerd.log; exit 1")
        with tarfile.open(self.programs) as tar:
            busybox = tar.extractfile("usr/bin/busybox").read()
        self.assertEqual(self.s.edge("POST", "/files?path=/tmp/image.tar&username=root", body=image(busybox),
                                     headers={"Content-Type": "application/octet-stream"}).status, 200)
        self.root("ctr image import /tmp/image.tar")

    def start_container(self, url):
        """On a bridge, with a way out and a port of the guest's, as Docker's own network is. It serves how far
        it has counted, with what it got from outside at each."""
        self.root("sysctl -qw net.ipv4.ip_forward=1;"
                  "ip link add br0 type bridge && ip addr add 10.88.0.1/24 dev br0 && ip link set br0 up &&"
                  "ip netns add c1 && ip link add h1 type veth peer name eth0 netns c1 &&"
                  "ip link set h1 master br0 up && ip -n c1 addr add 10.88.0.2/24 dev eth0 &&"
                  "ip -n c1 link set eth0 up && ip -n c1 link set lo up && ip -n c1 route add default via 10.88.0.1 &&"
                  "iptables -t nat -A POSTROUTING -s 10.88.0.0/24 ! -o br0 -j MASQUERADE &&"
                  "iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 8080 -j DNAT --to 10.88.0.2:80")
        self.root("ctr run -d --pid-file /tmp/pid --memory-limit 67108864 --with-ns network:/run/netns/c1 test:1 one "
                  "sh -c 'mkdir /www; httpd -p 80 -h /www; for i in $(seq 99999); do "
                  f"echo $i $(wget -qO- {url}) >/www/new; mv /www/new /www/count; sleep 0.2; done'")

    def count(self, sandbox, than=0):
        """Waits until it has counted further and got something from outside; through the edge, the guest's port
        and the bridge."""
        def ask():
            a = sandbox.edge("GET", "/count", port=8080)
            got = a.body.decode().split() if a.status == 200 else []
            return int(got[0]) if len(got) == 2 and got[1] == "outside" and int(got[0]) > than else 0
        return lib.wait_until("the container counts on", ask, 100)

    def test_a_container_goes_on_over_a_pause(self):
        self.start_containerd()
        with lib.Outside() as url:
            self.start_container(url)
            seen = self.count(self.s)
            # What is frozen has it in it, though not below the one who started it.
            state = "cat /proc/$(cat /tmp/pid)/cgroup /sys/fs/cgroup/default/one/memory.max; cut -d ' ' -f 22 " \
                    "/proc/$(cat /tmp/pid)/stat"
            before = self.root(state)
            self.assertEqual(before.splitlines()[:2], ["0::/default/one", "67108864"])
            self.s.pause()
            self.s.resume()
            seen = self.count(self.s, seen)
            self.assertEqual(self.root(state), before)  # the same process, by the time of its start
            copy, = self.s.fork(1)
            self.addCleanup(copy.delete)
            self.count(copy, seen)
