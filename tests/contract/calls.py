# SPDX-License-Identifier: Apache-2.0
"""The calls of the contract. A scene is a fresh process in a fresh directory, which holds: vmlinux, initrd, disk (1 MiB),
other (2 MiB), text (a line), and, behind a scene with keep=True, its files for the scenes that follow.
In the process's network namespace there are the taps tap0 and tap1.

A call whose answer must differ under fcqemu has `why`; it must differ then."""

ABSENT = "fcqemu has no such device, and says so"
NO_LIMITER = "QEMU's token buckets are not Firecracker's"
REAL_CPU = "templates mask features of the host's own processor"
SERDE = "an array in place of an object: nobody sends it"
OWN_STATE = "its state files are its own"
READER = "its JSON reader has its own words for what is no JSON"
SPEED = {"bandwidth": {"size": 1048576, "refill_time": 100}}


class Raw(str):
    """A body that is sent as it is."""


class Scene:
    def __init__(self, name, calls, keep=False, without=None):
        """keep: its snapshot is for the scenes that follow. without: a file that it does not find."""
        self.name, self.calls, self.keep, self.without = name, calls, keep, without


def call(method, path, body=None, why=None, ends=False):
    """ends: the process ends after the answer."""
    return {"method": method, "path": path, "body": body, "why": why, "ends": ends}


def get(path, **kw):
    return call("GET", path, **kw)


def put(path, body=None, **kw):
    return call("PUT", path, body, **kw)


def patch(path, body=None, **kw):
    return call("PATCH", path, body, **kw)


def action(name, **kw):
    return put("/actions", {"action_type": name}, **kw)


def state(name, **kw):
    return patch("/vm", {"state": name}, **kw)


def machine(vcpu_count=1, mem_size_mib=128, why=None, **more):
    return put("/machine-config", {"vcpu_count": vcpu_count, "mem_size_mib": mem_size_mib, **more}, why=why)


def drive(path, name="disk", body_id=None, root=False, why=None, **more):
    return put("/drives/" + path, {"drive_id": body_id or path, "path_on_host": name, "is_root_device": root, **more}, why=why)


def nic(path, tap="tap0", why=None, **more):
    return put("/network-interfaces/" + path, {"iface_id": path, "host_dev_name": tap, **more}, why=why)


def boot(args="console=ttyS0 reboot=k quiet"):
    return put("/boot-source", {"kernel_image_path": "vmlinux", "initrd_path": "initrd", "boot_args": args})


def load(**more):
    return {"snapshot_path": "state", "mem_backend": {"backend_type": "File", "backend_path": "mem"}, **more}


def look():
    return [get("/"), get("/version"), get("/machine-config"), get("/vm/config")]


# What each endpoint makes of each state: sent before the start, while the guest runs, and while it is paused.
EVERYWHERE = [
    put("/boot-source", {"kernel_image_path": "vmlinux"}),
    machine(),
    patch("/machine-config", {"mem_size_mib": 128}),
    drive("disk"),
    nic("eth0", guest_mac="06:00:00:00:00:01"),
    put("/entropy", {}),
    put("/logger", {"level": "Info"}),
    action("FlushMetrics"),
    patch("/drives/disk", {"drive_id": "disk", "path_on_host": "other"}),
    patch("/drives/none", {"drive_id": "none", "path_on_host": "other"}),
    patch("/drives/disk", {"drive_id": "disk", "path_on_host": "missing"}),
    patch("/network-interfaces/eth0", {"iface_id": "eth0"}),
    patch("/network-interfaces/none", {"iface_id": "none"}),
    # A body is read before the state is looked at.
    put("/boot-source", {"kernel_image_path": "vmlinux", "nosuch": 1}),
    put("/snapshot/create", {"snapshot_path": "x"}),
    put("/snapshot/load", {"snapshot_path": "x"}),
    patch("/vm", {"state": "Stopped"}),
    patch("/machine-config", {}),
    call("DELETE", "/drives/disk"),
    call("DELETE", "/network-interfaces/eth0"),
]

SHAPES = [
    # routes
    put("/nosuch", {}), get("/nosuch"), get("/nosuch/more"), patch("/nosuch", {}),
    get("/actions"), get("/drives/disk"), get("/boot-source"), get("/vm"), get("/vm/nosuch"),
    get("/version/more"), get("/machine-config/"), get("//"), put("/snapshot", {}),
    put("/snapshot/nosuch", {}), put("/vm", {"state": "Paused"}), patch("/actions", {}),
    call("DELETE", "/actions"), call("DELETE", "/drives"), call("DELETE", "/nosuch"),
    call("POST", "/actions", {}), call("HEAD", "/"), call("GET", "version"),
    # with and without a body
    put("/machine-config"), put("/nosuch"), patch("/vm"), patch("/nosuch"), get("/", body={}),
    get("/nosuch", body={}), call("DELETE", "/drives/disk", {}), put("/actions"), patch("/drives/disk"),
    # JSON
    put("/machine-config", "text"), put("/machine-config", 5),
    put("/machine-config", None), put("/machine-config", True), put("/machine-config", 1.5),
    put("/machine-config", {}), put("/machine-config", {"vcpu_count": 1}),
    machine(nosuch=1), machine(vcpu_count="1"), machine(vcpu_count=-1), machine(vcpu_count=256),
    machine(vcpu_count=1.5), machine(vcpu_count=None), machine(vcpu_count=True), machine(vcpu_count=[]),
    machine(vcpu_count={}), machine(mem_size_mib=-5), machine(mem_size_mib="x"), machine(track_dirty_pages=1),
    machine(track_dirty_pages="yes"), machine(track_dirty_pages=None), machine(smt=None),
    machine(huge_pages="4M"), machine(huge_pages=5), machine(huge_pages=None),
    put("/actions", {"action_type": "Dance"}), put("/actions", {"action_type": 5}), put("/actions", {}),
    put("/actions", {"action_type": None}), put("/actions", {"action_type": "InstanceStart", "x": 1}),
    put("/actions", "InstanceStart"), put("/entropy", {"nosuch": 1}),
    put("/machine-config", Raw('{"vcpu_count": 1, "vcpu_count": 1, "mem_size_mib": 128}')),
    put("/actions", Raw('{"action_type": "FlushMetrics", "action_type": 1}')),
    put("/entropy", Raw(""), why=None), put("/entropy", Raw("{"), why=READER), put("/entropy", Raw("{} x"), why=READER),
    put("/entropy", Raw('{"rate_limiter": }'), why=READER), put("/entropy", Raw("nonsense"), why=READER),
    put("/entropy", Raw("{'rate_limiter': null}"), why=READER), put("/entropy", Raw(" { } ")),
    put("/machine-config", {"vcpu_count": 18446744073709551616, "mem_size_mib": 128}, why=READER),
    put("/machine-config", {"mem_size_mib": "x", "vcpu_count": "y"}),
    put("/machine-config", {"mem_size_mib": 64, "nosuch": 1, "vcpu_count": "y"}),
    # ids
    drive("a-b"), put("/drives/", {}), put("/drives", {}), drive("a_b", body_id="other"), put("/drives/a%20b", {}),
    put("/drives/one/two", {"drive_id": "one", "path_on_host": "disk", "is_root_device": False}),
    put("/network-interfaces/a-b", {}), put("/network-interfaces", {}), patch("/drives", {}), patch("/drives/a-b", {}),
    put("/network-interfaces/one", {"iface_id": "two", "host_dev_name": "tap0"}),
    patch("/network-interfaces/a-b", {}), patch("/network-interfaces", {}),
    patch("/network-interfaces/one", {"iface_id": "two"}), patch("/drives/one", {"drive_id": "two"}),
]

CONFIGURATION = [
    *look(),
    machine(0), machine(32), machine(33), machine(mem_size_mib=0), machine(2, 64, track_dirty_pages=True),
    get("/machine-config"), patch("/machine-config", {"vcpu_count": 3}), patch("/machine-config", {"vcpu_count": 0}),
    patch("/machine-config", {"vcpu_count": None}), patch("/machine-config", {"nosuch": 1}), get("/machine-config"),
    put("/boot-source", {"kernel_image_path": "missing"}), put("/boot-source", {"kernel_image_path": "text"}),
    put("/boot-source", {"kernel_image_path": "vmlinux", "initrd_path": "missing"}),
    put("/boot-source", {"kernel_image_path": "vmlinux", "boot_args": "x" * 2047}),
    put("/boot-source", {"kernel_image_path": "vmlinux", "boot_args": "x" * 2048}),
    put("/boot-source", {"kernel_image_path": "vmlinux", "boot_args": "a\u00e4b"}),
    put("/boot-source", {}), put("/boot-source", {"kernel_image_path": 1}), put("/boot-source", {"kernel_image_path": ""}),
    get("/vm/config"), boot(), get("/vm/config"),
    drive("one", "missing"), drive("one", ""), drive("one", "."), drive("one"), drive("root", "other", root=True),
    drive("second", root=True), drive("one", root=True), drive("root", "disk", root=True), drive("third", is_read_only=True),
    drive("four", partuuid="0eaa91a0-01"), drive("five", cache_type="Writeback"), drive("six", cache_type="None"),
    drive("six", io_engine="None"), drive("six", io_engine="Sync"), drive("six", is_read_only=None),
    put("/drives/six", {"drive_id": "six", "is_root_device": False}),
    put("/drives/six", {"drive_id": "six", "path_on_host": "disk"}),
    put("/drives/six", {"drive_id": "six", "path_on_host": 5, "is_root_device": False}), drive("six", nosuch=1),
    drive("root", "other", root=False), get("/vm/config"),
    nic("eth0"), nic("eth0", guest_mac="06:00:00:00:00:01"), nic("eth1", "tap1", guest_mac="06:00:00:00:00:01"),
    nic("eth1", "tap1", guest_mac="06:00:00:00:00:02", mtu=1400), nic("eth2", "tap0"), nic("eth2", "tap_with_a_long_name"),
    nic("eth3", "tap9", guest_mac="nonsense"), nic("eth3", "tap9", guest_mac="06:00:00:00:00:0"),
    nic("eth3", "tap9", guest_mac="06:00:00:00:00:001"), nic("eth3", "tap9", guest_mac=5), nic("eth3", "tap9", mtu=67),
    nic("eth3", "tap9", mtu=65536), nic("eth3", "tap9", mtu=-1), nic("eth3", "tap9", nosuch=1),
    put("/network-interfaces/eth3", {"iface_id": "eth3"}),
    put("/entropy", {}), put("/entropy", {"rate_limiter": None}), get("/vm/config"),
    put("/logger", {}), put("/logger", {"log_path": "log", "level": "warning"}), put("/logger", {"log_path": "/missing/log"}),
    put("/logger", {"level": "loud"}), put("/logger", {"level": 5}), put("/logger", {"nosuch": 1}),
    put("/logger", {"show_level": "yes"}), put("/metrics", {}), put("/metrics", {"metrics_path": "/missing/metrics"}),
    put("/metrics", {"metrics_path": "metrics", "nosuch": 1}), put("/metrics", {"metrics_path": "metrics2"}),
    put("/snapshot/load", load()), put("/snapshot/load", load(nosuch=1)), action("FlushMetrics"), action("SendCtrlAltDel"),
]

LOAD_SHAPES = [
    put("/snapshot/load", {}), put("/snapshot/load", {"snapshot_path": "state"}),
    put("/snapshot/load", load(mem_file_path="mem")), put("/snapshot/load", load(nosuch=1)),
    put("/snapshot/load", {"snapshot_path": "state", "mem_backend": {"backend_type": "Tape", "backend_path": "x"}}),
    put("/snapshot/load", {"snapshot_path": "state", "mem_backend": {"backend_type": "File"}}),
    put("/snapshot/load", {"snapshot_path": "state", "mem_backend": {"backend_path": "mem"}}),
    put("/snapshot/load", {"snapshot_path": "state", "mem_backend": "mem"}),
    put("/snapshot/load", {"snapshot_path": "state", "mem_backend": {"backend_type": "File", "backend_path": "mem", "x": 1}}),
    put("/snapshot/load", {"snapshot_path": 5, "mem_file_path": "mem"}), put("/snapshot/load", load(resume_vm="yes")),
    put("/snapshot/load", load(network_overrides={})), put("/snapshot/load", load(network_overrides=[{"iface_id": "x"}])),
    put("/snapshot/load", load(network_overrides=None)), put("/snapshot/load", load(track_dirty_pages=None)),
    get("/"),
]

START = [machine(track_dirty_pages=True), boot(), drive("disk"), nic("eth0", guest_mac="06:00:00:00:00:01"), put("/entropy", {})]
OTHERS = [
    get("/balloon", why=ABSENT), put("/balloon", {"amount_mib": 8, "deflate_on_oom": True}, why=ABSENT), get("/balloon", why=ABSENT),
    patch("/balloon", {"amount_mib": 1}, why=ABSENT), get("/balloon/statistics", why=ABSENT), put("/cpu-config", {}, why=ABSENT),
    put("/mmds", {"a": 1}, why=ABSENT), get("/mmds", why=ABSENT), put("/serial", {"serial_out_path": "serial"}, why=ABSENT),
    put("/vsock", {"guest_cid": 3, "uds_path": "v.sock"}, why=ABSENT), get("/hotplug/memory", why=ABSENT),
    put("/pmem/p", {"id": "p", "path_on_host": "other"}, why=ABSENT),
    drive("disk", rate_limiter=SPEED, why=NO_LIMITER), drive("disk", io_engine="Async", why=ABSENT),
    nic("eth0", rx_rate_limiter=SPEED, why=NO_LIMITER), put("/entropy", {"rate_limiter": SPEED}, why=NO_LIMITER),
    machine(cpu_template="T2A", why=REAL_CPU), machine(smt=True, why=REAL_CPU), machine(huge_pages="2M", why="pages of 4 KiB"),
    put("/logger", {"show_log_origin": True, "module": "api"}, why="its log lines carry neither"),
    nic("eth1", "tap9", why="it makes no interface"), nic("eth2", "", why="it makes no interface"),
    put("/machine-config", [], why=SERDE), put("/entropy", [], why=SERDE), put("/drives/disk", [], why=SERDE),
]
OTHERS_RUNNING = [
    patch("/drives/disk", {"drive_id": "disk", "rate_limiter": SPEED}, why=NO_LIMITER), patch("/drives/disk", {"drive_id": "disk"}),
    patch("/network-interfaces/eth0", {"iface_id": "eth0", "rx_rate_limiter": SPEED}, why=NO_LIMITER),
    get("/balloon", why=ABSENT), patch("/balloon", {"amount_mib": 1}, why=ABSENT), get("/mmds", why=ABSENT),
    put("/cpu-config", {}, why=ABSENT), put("/serial", {"serial_out_path": "serial"}, why=ABSENT),
]

SNAPSHOTS = [
    put("/snapshot/create", {"snapshot_path": "state", "mem_file_path": "mem"}),
    state("Paused"), state("Paused"), get("/"),
    put("/snapshot/create", {"snapshot_path": "state", "mem_file_path": "mem", "version": "1.0.0"}),
    put("/snapshot/create", {"snapshot_path": "state", "mem_file_path": "mem", "snapshot_type": "Half"}),
    put("/snapshot/create", {"snapshot_path": "/missing/state", "mem_file_path": "mem", "snapshot_type": "Diff"}),
    put("/snapshot/create", {"snapshot_path": "state", "mem_file_path": "/missing/mem", "snapshot_type": "Diff"}),
    put("/snapshot/create", {"snapshot_path": "state", "mem_file_path": "mem", "snapshot_type": "Full"}),
    put("/snapshot/create", {"snapshot_path": "state2", "mem_file_path": "mem2", "snapshot_type": "Diff"}),
    put("/snapshot/load", load()), get("/"), state("Resumed"), state("Resumed"), get("/"),
]


def failed(body, why=None):
    return [put("/snapshot/load", body, ends=True, why=why)]


SCENES = [
    Scene("nothing configured", [*look(), action("InstanceStart"), state("Paused"), state("Resumed"), get("/")]),
    Scene("shapes", SHAPES),
    Scene("configuration", CONFIGURATION),
    Scene("states", [*EVERYWHERE, *START, action("InstanceStart"), *look(), action("InstanceStart"), *EVERYWHERE,
                     *look(), state("Paused"), *EVERYWHERE, *look(), state("Resumed"), get("/")]),
    Scene("snapshots", [*START, action("InstanceStart"), *SNAPSHOTS], keep=True),
    Scene("a start that fails", [machine(), put("/boot-source", {"kernel_image_path": "text"}), action("InstanceStart"), get("/"),
                                 action("InstanceStart"), put("/boot-source", {"kernel_image_path": "missing"}),
                                 boot(), action("InstanceStart"), get("/"),
                                 action("SendCtrlAltDel", why="its machine has no keyboard")]),
    Scene("what fcqemu has not", OTHERS),
    Scene("what fcqemu has not, of a guest that runs", [*START, action("InstanceStart"), *OTHERS_RUNNING]),
    Scene("load shapes", LOAD_SHAPES),
    Scene("load, patch, resume", [put("/snapshot/load", load(resume_vm=False, track_dirty_pages=True)), *look(),
                                  patch("/drives/disk", {"drive_id": "disk", "path_on_host": "other"}),
                                  patch("/network-interfaces/eth0", {"iface_id": "eth0"}), *look(),
                                  put("/snapshot/load", load()), state("Resumed"), get("/"), state("Paused"),
                                  put("/snapshot/create", {"snapshot_path": "state3", "mem_file_path": "mem3",
                                                           "snapshot_type": "Diff"}),
                                  state("Resumed"), get("/")]),
    Scene("load and resume", [put("/logger", {"level": "Info"}), put("/metrics", {"metrics_path": "metrics"}),
                              put("/snapshot/load", load(resume_vm=True)), get("/"), action("FlushMetrics"),
                              put("/entropy", {})]),
    Scene("load by the old names", [put("/snapshot/load", {"snapshot_path": "state", "mem_file_path": "mem",
                                                           "enable_diff_snapshots": True}), get("/"),
                                    get("/machine-config")]),
    Scene("load with another tap", [put("/snapshot/load", load(network_overrides=[
        {"iface_id": "eth0", "host_dev_name": "tap1"}])), get("/vm/config")]),
    Scene("load behind a drive", [drive("disk"), put("/snapshot/load", load()), get("/")]),
    Scene("load behind a drive that failed", [drive("disk", "missing"), put("/snapshot/load", load()), get("/")]),
    Scene("no state", failed(load(snapshot_path="missing"))),
    Scene("no memory", failed(load(mem_backend={"backend_type": "File", "backend_path": "missing"}))),
    Scene("no pager", failed(load(mem_backend={"backend_type": "Uffd", "backend_path": "missing"}))),
    Scene("state of nonsense", failed(load(snapshot_path="text"), OWN_STATE)),
    Scene("state that is too long", failed(load(snapshot_path="mem"), OWN_STATE)),
    Scene("memory that is too short", failed(load(mem_backend={"backend_type": "File", "backend_path": "text"}))),
    Scene("a drive that went", failed(load()), without="disk"),
    Scene("a tap that cannot be", failed(load(network_overrides=[
        {"iface_id": "eth0", "host_dev_name": "tap_with_a_long_name"}]))),
    Scene("unknown interface", failed(load(network_overrides=[{"iface_id": "no", "host_dev_name": "tap1"}]))),
]
