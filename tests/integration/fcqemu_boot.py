#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Boots real guests through fcqemu: fcqemu_boot.py FCQEMU RAMHOOK GUEST

GUEST is the static init of the test guest. STASIS_TEST_VMLINUX and STASIS_TEST_INITRD name a kernel and an initramfs
with /modules/order and the modules listed there. STASIS_TEST_ACCEL: tcg (default) or kvm. Exit status 77: cannot
run here, and why.
"""
import ctypes
import gzip
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

TIMEOUT = int(os.environ.get('STASIS_TEST_TIMEOUT', '120'))  # of one wait; an emulated guest on a busy machine is slow
FCQEMU, RAMHOOK, GUEST = (os.path.abspath(a) for a in sys.argv[1:4])
QEMU = os.environ.get('STASIS_TEST_QEMU', '/usr/bin/qemu-system-x86_64')
ACCEL = os.environ.get('STASIS_TEST_ACCEL', 'tcg')  # or kvm, on a machine whose KVM works
ARGS = 'console=ttyS0 quiet '
MAC = '06:00:ac:10:00:02'


def skip(why):
    print('SKIPPED: ' + why)
    sys.exit(77)


def cpio_read(data):
    """Files of a newc archive: {path: content}."""
    files, at = {}, 0
    while data[at:at + 6] in (b'070701', b'070702'):
        field = [int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in range(13)]
        size, name_size = field[6], field[11]
        name = data[at + 110:at + 110 + name_size - 1].decode()
        at = (at + 110 + name_size + 3) & ~3
        if name == 'TRAILER!!!':
            break
        files[name[2:] if name.startswith('./') else name] = data[at:at + size]
        at = (at + size + 3) & ~3
    return files


def cpio_write(entries):
    """entries: (path, mode, content, device major, minor)."""
    out = b''
    for i, (path, mode, data, major, minor) in enumerate(entries + [('TRAILER!!!', 0, b'', 0, 0)]):
        name = path.encode() + b'\0'
        out += b'070701' + b''.join(b'%08x' % v for v in (
            i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name), 0)) + name
        out += b'\0' * (-len(out) % 4)
        out += data + b'\0' * (-len(data) % 4)
    return out


def make_initrd(path):
    raw = open(os.environ['STASIS_TEST_INITRD'], 'rb').read()
    files = cpio_read(gzip.decompress(raw) if raw[:2] == b'\x1f\x8b' else raw)
    if 'modules/order' not in files:
        skip('STASIS_TEST_INITRD holds no modules/order')
    entries = [(d, 0o40755, b'', 0, 0) for d in ('dev', 'proc', 'modules')]
    entries.append(('dev/console', 0o20600, b'', 5, 1))
    entries.append(('init', 0o100755, open(GUEST, 'rb').read(), 0, 0))
    entries += [(n, 0o100644, d, 0, 0) for n, d in files.items() if n.startswith('modules/') and n != 'modules/']
    with open(path, 'wb') as f:
        f.write(cpio_write(entries))


class Client:
    """One connection to the API."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(path)
        self.file = self.sock.makefile('rb')

    def answer(self):
        """Status line, headers, body."""
        status, headers = self.file.readline(), {}
        while True:
            line = self.file.readline().rstrip(b'\r\n')
            if not line:
                break
            key, value = line.split(b': ', 1)
            headers[key.decode()] = value.decode()
        return status, headers, self.file.read(int(headers.get('Content-Length', 0)))

    def call(self, method, path, body=None):
        data = b'' if body is None else json.dumps(body).encode()
        head = '%s %s HTTP/1.1\r\nHost: localhost\r\n' % (method, path)
        if data:
            head += 'Content-Length: %d\r\n' % len(data)
        self.sock.sendall(head.encode() + b'\r\n' + data)
        status, headers, content = self.answer()
        code = int(status.split()[1])
        assert status == b'HTTP/1.1 %d \r\n' % code, status
        assert headers['Server'] == 'Firecracker API', headers
        if code == 204:
            assert 'Content-Length' not in headers and content == b''
            return code, None
        return code, json.loads(content)

    def ok(self, method, path, body=None):
        code, answer = self.call(method, path, body)
        assert code in (200, 204), (method, path, code, answer)
        return answer

    def refused(self, method, path, body, part):
        code, answer = self.call(method, path, body)
        assert code == 400 and part in answer['fault_message'], (method, path, code, answer)


class Vm:
    """A running fcqemu with its console."""
    all = []

    def __init__(self, name, wrap=None, *more):
        self.dir = tempfile.mkdtemp(prefix=name + '-', dir=WORK)
        os.chmod(self.dir, 0o777)
        self.sock_path = self.dir + '/api.sock'
        argv = [FCQEMU, '--api-sock', self.sock_path, '--id', name, '--ramhook', RAMHOOK, '--qemu', QEMU,
                '--accel', ACCEL] + list(more)
        self.stderr = open(self.dir + '/stderr', 'w+b')
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.stderr,
                                        preexec_fn=wrap, env={})
        Vm.all.append(self)
        self.text, self.ended, self.changed = b'', False, threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()
        self.client = self.connect()

    def connect(self):
        end = time.monotonic() + TIMEOUT
        while True:  # the socket appears; there is no event to wait for but inotify, which Python lacks
            try:
                return Client(self.sock_path)
            except (FileNotFoundError, ConnectionRefusedError):
                assert self.process.poll() is None and time.monotonic() < end, self.errors()
                time.sleep(0.002)

    def read(self):
        while True:
            data = os.read(self.process.stdout.fileno(), 65536)
            with self.changed:
                self.text += data
                self.ended = not data
                self.changed.notify_all()
            if not data:
                return

    def wait_for(self, text, start=0):
        """Waits for text on the console from position start; the position behind it."""
        text = text.encode()
        with self.changed:
            good = self.changed.wait_for(lambda: text in self.text[start:] or self.ended, TIMEOUT)
            at = self.text.find(text, start)
            assert good and at >= 0, 'no %r; console ends with %r; %s' % (text, self.text[-600:], self.errors())
            return at + len(text)

    def errors(self):
        self.stderr.seek(0)
        return self.stderr.read().decode(errors='replace')

    def start(self, test, memory=192, vcpus=1, before=None, args=ARGS):
        c = self.client
        c.ok('PUT', '/machine-config', {'vcpu_count': vcpus, 'mem_size_mib': memory})
        c.ok('PUT', '/boot-source', {'kernel_image_path': VMLINUX, 'initrd_path': INITRD, 'boot_args': args + test})
        if before:
            before(c)
        c.ok('PUT', '/actions', {'action_type': 'InstanceStart'})
        return self.wait_for('guest ready')

    def qemu_pid(self):
        with open('/proc/%d/task/%d/children' % (self.process.pid, self.process.pid)) as f:
            return int(f.read().split()[0])

    def end(self):
        return self.process.wait(TIMEOUT)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def gone(pid):
    """Waits until a process that is not our child has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select
    ready = select.select([fd], [], [], TIMEOUT)[0]
    os.close(fd)
    return bool(ready)


# ---- tests

def test_wire():
    """The transport: limits, pipelining, errors, connections."""
    vm = Vm('wire')
    s = vm.client.sock
    s.sendall(b'GET /version HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n')
    assert vm.client.answer()[2] == b'{"firecracker_version":"1.16.1-fcqemu"}'
    assert json.loads(vm.client.answer()[2])['id'] == 'wire'
    s.sendall(b'PUT /entropy HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n')
    assert vm.client.answer()[0] == b'HTTP/1.1 100 \r\n'
    s.sendall(b'{}')
    assert vm.client.answer()[0] == b'HTTP/1.1 204 \r\n'
    rest = [Client(vm.sock_path) for _ in range(9)]
    rest[-1].ok('GET', '/')  # all ten are accepted
    one_more = Client(vm.sock_path)
    status, headers, body = one_more.answer()
    assert status.startswith(b'HTTP/1.1 503') and b'Too many open connections' in body
    assert one_more.sock.recv(1) == b''
    rest[0].sock.sendall(b'PUT / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n')
    status, headers, body = rest[0].answer()
    assert status == b'HTTP/1.1 400 \r\n' and b'"error"' in body and b'60000' in body
    assert rest[0].sock.recv(1) == b''
    rest[1].sock.sendall(b'GET /' + b'x' * 2000)
    assert rest[1].answer()[0] == b'HTTP/1.1 400 \r\n'
    again = vm.connect()
    again.ok('GET', '/')
    vm.process.terminate()
    assert vm.end() == 128 + signal.SIGTERM


def test_command_line():
    def run(*args):
        return subprocess.run([FCQEMU, *args], capture_output=True, text=True, timeout=TIMEOUT)
    assert run('--version').stdout == 'Firecracker v1.16.1-fcqemu\n'
    assert run().returncode == 153
    assert run('--api-sock', WORK + '/x', '--accel', 'fast').returncode == 153
    assert run('--api-sock', WORK + '/x', '--id', 'a_b', '--ramhook', RAMHOOK).returncode == 153
    assert run('--api-sock', WORK + '/x', '--ramhook', '/nowhere').returncode == 153
    open(WORK + '/taken', 'w').close()
    r = run('--api-sock', WORK + '/taken', '--ramhook', RAMHOOK)
    assert r.returncode == 1 and 'cannot bind' in r.stderr, r
    probe = json.loads(run('--probe', '--qemu', QEMU).stdout)
    assert probe['accel'] in ('kvm', 'tcg') and probe['qemu_version'][0].isdigit(), probe
    assert probe['accel'] == 'kvm' or probe['kvm_reason'], probe


def test_life():
    """Console, pause, resume, state, wrong calls, power-off."""
    vm = Vm('life')
    c = vm.client
    c.refused('PATCH', '/vm', {'state': 'Paused'}, 'not supported before starting the microVM')
    c.refused('PUT', '/actions', {'action_type': 'InstanceStart'}, 'without kernel configuration')
    vm.start('test=tick')
    assert c.ok('GET', '/')['state'] == 'Running'
    vm.wait_for('tick 5')
    c.ok('PATCH', '/vm', {'state': 'Paused'})
    assert c.ok('GET', '/')['state'] == 'Paused'
    with vm.changed:  # what was under way arrives; a paused guest then says nothing for ten ticks
        while vm.changed.wait(0.2):
            pass
        at = len(vm.text)
    c.ok('PATCH', '/vm', {'state': 'Paused'})
    assert len(vm.text) == at
    c.ok('PATCH', '/vm', {'state': 'Resumed'})
    vm.wait_for('tick', at)
    assert c.ok('GET', '/')['state'] == 'Running'
    c.refused('PUT', '/machine-config', {'vcpu_count': 1, 'mem_size_mib': 128}, 'not supported after starting')
    c.refused('PUT', '/actions', {'action_type': 'InstanceStart'}, 'not supported after starting')
    c.refused('PUT', '/actions', {'action_type': 'SendCtrlAltDel'}, 'fcqemu cannot honour')
    qemu = vm.qemu_pid()
    huge = [int(l.split()[1]) for l in open('/proc/%d/smaps' % qemu) if l.startswith('AnonHugePages')]
    with open('/proc/%d/environ' % qemu) as f:
        assert 'HOME' not in f.read()
    assert max(huge) < 192 << 10, huge
    vm.process.terminate()
    assert vm.end() == 128 + signal.SIGTERM and gone(qemu)


def test_guest_ends():
    """Power-off, reboot and panic end the process with status 0."""
    for what in ('poweroff', 'reboot', 'panic'):
        vm = Vm(what)
        vm.start('test=' + what)
        assert vm.end() == 0, vm.errors()
        vm.wait_for('')
        if what == 'panic':
            vm.wait_for('Kernel panic')


def test_qemu_killed():
    vm = Vm('killed')
    vm.start('test=tick')
    os.kill(vm.qemu_pid(), signal.SIGKILL)
    assert vm.end() == 1
    assert 'QEMU ended: signal: killed' in vm.errors(), vm.errors()


def test_fcqemu_killed():
    vm = Vm('orphan')
    vm.start('test=tick')
    qemu = vm.qemu_pid()
    vm.process.kill()
    assert vm.end() == -signal.SIGKILL and gone(qemu)


def test_failed_start():
    """QEMU's own reason reaches the client, nothing is left, and a second try is possible."""
    vm = Vm('failed')
    c = vm.client
    bad = vm.dir + '/bad'
    with open(bad, 'wb') as f:
        f.write(b'\x7fELF' + b'\0' * 100)
    c.ok('PUT', '/boot-source', {'kernel_image_path': bad})
    c.refused('PUT', '/actions', {'action_type': 'InstanceStart'}, 'qemu-system')
    assert open('/proc/%d/task/%d/children' % (vm.process.pid, vm.process.pid)).read() == ''
    assert c.ok('GET', '/')['state'] == 'Not started'
    vm.start('test=poweroff')
    assert vm.end() == 0


def test_hook_must_fire():
    """A hook that does nothing is noticed: the guest never runs untracked."""
    vm = Vm('hookless')
    vm.kill()
    empty = WORK + '/empty.so'
    subprocess.run(['cc', '-shared', '-o', empty, '-x', 'c', '/dev/null'], check=True)
    vm = Vm('hookless', None, '--ramhook', empty)
    c = vm.client
    c.ok('PUT', '/boot-source', {'kernel_image_path': VMLINUX, 'initrd_path': INITRD, 'boot_args': ARGS})
    c.refused('PUT', '/actions', {'action_type': 'InstanceStart'}, 'did not report')
    assert vm.text == b''


def test_stuck_qemu():
    """A QEMU that does not answer costs its time-out, not the API."""
    vm = Vm('stuck')
    vm.start('test=tick')
    qemu = vm.qemu_pid()
    os.kill(qemu, signal.SIGSTOP)
    vm.client.refused('PATCH', '/vm', {'state': 'Paused'}, 'QEMU did not answer stop in time')
    assert vm.client.ok('GET', '/')['state'] == 'Running'
    os.kill(qemu, signal.SIGCONT)
    vm.client.ok('PATCH', '/vm', {'state': 'Paused'})
    vm.process.terminate()
    assert vm.end() == 128 + signal.SIGTERM and gone(qemu)


def disk(path, head, size):
    with open(path, 'wb') as f:
        f.write(head.encode().ljust(16, b'.'))
        f.truncate(size)
    return path


def test_drives():
    """Order, read-only, writes, and another file behind a drive of the running guest."""
    vm = Vm('drives')
    root = disk(vm.dir + '/root', 'root', 8 << 20)
    data = disk(vm.dir + '/a file, with=odd "name"', 'data', 4 << 20)
    fixed = disk(vm.dir + '/fixed', 'fixed', 4 << 20)
    other = disk(vm.dir + '/other', 'other', 4 << 20)
    larger = disk(vm.dir + '/larger', 'larger', 16 << 20)

    def before(c):
        c.ok('PUT', '/drives/data', {'drive_id': 'data', 'path_on_host': data, 'is_root_device': False})
        c.ok('PUT', '/drives/fixed', {'drive_id': 'fixed', 'path_on_host': fixed, 'is_root_device': False,
                                      'is_read_only': True})
        c.ok('PUT', '/drives/rootfs', {'drive_id': 'rootfs', 'path_on_host': root, 'is_root_device': True,
                                       'cache_type': 'Writeback'})
    vm.start('test=disks', before=before)
    vm.wait_for('vda size %d ro 0 head root......' % (8 << 20))
    vm.wait_for('vdb size %d ro 0 head data......' % (4 << 20))
    vm.wait_for('vdc size %d ro 1 head fixed.....' % (4 << 20))
    vm.wait_for('written')
    assert b'root=/dev/vda rw' in vm.text
    with open(root, 'rb') as f:
        f.seek(4096)
        assert f.read(14) == b'guest was here'
    at = vm.wait_for('vdb now')
    vm.client.ok('PATCH', '/drives/data', {'drive_id': 'data', 'path_on_host': other})
    at = vm.wait_for('vdb now size %d head other.....' % (4 << 20), at)
    vm.client.ok('PATCH', '/drives/data', {'drive_id': 'data', 'path_on_host': larger})
    vm.wait_for('vdb now size %d head larger....' % (16 << 20), at)
    vm.client.refused('PATCH', '/drives/fixed', {'drive_id': 'fixed', 'path_on_host': larger}, 'keeps its size')
    vm.client.ok('PATCH', '/drives/fixed', {'drive_id': 'fixed', 'path_on_host': other})
    vm.client.refused('PATCH', '/drives/data', {'drive_id': 'data', 'path_on_host': '/nowhere'},
                      'No such file or directory (os error 2) /nowhere')
    vm.kill()


def test_vcpus():
    vm = Vm('smp')
    vm.start('test=tick', vcpus=2, args='console=ttyS0 ')
    vm.wait_for('tick 3')
    assert b'Brought up 1 node, 2 CPUs' in vm.text
    vm.kill()


JAIL_DEVICES = ('/dev/userfaultfd', '/dev/net/tun') + (('/dev/kvm',) if ACCEL == 'kvm' else ())
CLONE_NEWNS, CLONE_NEWNET, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x40000000, 4096, 16384, 1 << 18
libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags):
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), 'unshare')


def jail():
    """As the shim does: own uid, no capabilities, no new privileges, device nodes of its own."""
    unshare(CLONE_NEWNS)
    libc.mount(b'none', b'/', None, MS_REC | MS_PRIVATE, None)
    for name in JAIL_DEVICES:
        if libc.mount((WORK + '/' + os.path.basename(name)).encode(), name.encode(), None, MS_BIND, None) != 0:
            raise OSError(ctypes.get_errno(), 'mount ' + name)
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc.prctl(38, 1, 0, 0, 0)


def in_network_namespace(test):
    """Runs a test in a child with a network namespace and device nodes for jail()."""
    for name in JAIL_DEVICES:
        node = WORK + '/' + os.path.basename(name)
        if not os.path.exists(node):
            os.mknod(node, 0o20600, os.stat(name).st_rdev)
            os.chown(node, 65534, 65534)
    pid = os.fork()
    if pid == 0:
        try:
            unshare(CLONE_NEWNET)
            test()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            for vm in Vm.all:
                vm.kill()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_jail_and_network():
    """Runs without any privilege; a tap owned by the uid carries packets both ways."""
    in_network_namespace(network_in_namespace)


def network_in_namespace():
    for command in ('tuntap add tap0 mode tap user 65534', 'address add 169.254.0.22/30 dev tap0', 'link set tap0 up'):
        subprocess.run(['ip'] + command.split(), check=True)
    vm = Vm('jailed', jail)

    def before(c):
        c.refused('PUT', '/network-interfaces/eth0', {'iface_id': 'eth0', 'host_dev_name': 'tap9'}, 'tap9')
        c.ok('PUT', '/network-interfaces/eth0', {'iface_id': 'eth0', 'host_dev_name': 'tap0', 'guest_mac': MAC,
                                                 'mtu': 1400})
        c.ok('PUT', '/entropy', {})
    vm.start('test=echo', before=before)
    vm.wait_for('mac %s mtu 1400' % MAC)
    vm.wait_for('listening')
    with open('/proc/%d/status' % vm.qemu_pid()) as f:
        status = f.read()
    assert 'Uid:\t65534\t65534' in status and 'CapEff:\t0000000000000000' in status
    assert 'NoNewPrivs:\t1' in status and 'Seccomp:\t2' in status
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    for _ in range(TIMEOUT):
        s.sendto(b'hello', ('169.254.0.21', 7))
        try:
            assert s.recv(100) == b'hello'
            break
        except socket.timeout:
            pass
    else:
        raise AssertionError('no answer from the guest')
    vm.kill()


def run(tests):
    """Runs the functions test_* of a module that the command line names, or all."""
    global WORK, VMLINUX, INITRD
    for name in ('STASIS_TEST_VMLINUX', 'STASIS_TEST_INITRD'):
        if not os.path.exists(os.environ.get(name, '')):
            skip(name + ' does not name a file (build the image first)')
    if not os.path.exists(QEMU):
        skip(QEMU + ' is not installed')
    VMLINUX = os.path.abspath(os.environ['STASIS_TEST_VMLINUX'])
    WORK = tempfile.mkdtemp(prefix='fcqemu-test-')
    os.chmod(WORK, 0o755)
    INITRD = WORK + '/initrd'
    failed = 0
    wanted = [a for a in sys.argv[4:] if a.startswith('test_')]
    try:
        make_initrd(INITRD)
        for name, test in list(tests.items()):
            if not name.startswith('test_') or (wanted and name not in wanted):
                continue
            if 'jail' in name and os.geteuid() != 0:
                print('skipped %s: needs root' % name)
                continue
            begin = time.monotonic()
            try:
                test()
                print('ok %s (%.1f s)' % (name, time.monotonic() - begin), flush=True)
            except Exception:
                import traceback
                traceback.print_exc()
                print('FAILED %s' % name, flush=True)
                failed += 1
            for vm in Vm.all:
                vm.kill()
            Vm.all.clear()
    finally:
        shutil.rmtree(WORK)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(run(globals()))
