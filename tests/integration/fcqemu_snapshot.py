#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of real guests through fcqemu: fcqemu_snapshot.py FCQEMU RAMHOOK GUEST PAGER LAYERTOOL [TEST...]

Needs what fcqemu_boot.py needs.
"""
import json
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import fcqemu_boot as boot  # noqa: E402
from fcqemu_boot import FCQEMU, TIMEOUT, Vm, gone  # noqa: E402

PAGER, LAYERTOOL = (os.path.abspath(a) for a in sys.argv[4:6])
MIB = 1 << 20


def ram_of(pid, size):
    """All of guest memory of a stopped QEMU, read from outside."""
    for line in open('/proc/%d/maps' % pid):
        first, last = (int(x, 16) for x in line.split()[0].split('-'))
        if last - first == size:
            with open('/proc/%d/mem' % pid, 'rb') as f:
                f.seek(first)
                return f.read(size)
    raise AssertionError('no guest memory of %d bytes' % size)


def overlay(parent, path):
    """parent with the data extents of a diff over it; bytes of data."""
    out, total = bytearray(parent), 0
    with open(path, 'rb') as f:
        end = os.fstat(f.fileno()).st_size
        assert end == len(parent), (end, len(parent))
        at = 0
        while True:
            try:
                at = os.lseek(f.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            stop = os.lseek(f.fileno(), at, os.SEEK_HOLE)
            out[at:stop] = os.pread(f.fileno(), stop - at, at)
            total += stop - at
            at = stop
    return bytes(out), total


def create(vm, name, kind='Diff'):
    state, memory = vm.dir + '/' + name + '.state', vm.dir + '/' + name + '.mem'
    vm.client.ok('PUT', '/snapshot/create', {'snapshot_path': state, 'mem_file_path': memory, 'snapshot_type': kind})
    for path in (state, memory):
        assert os.stat(path).st_mode & 0o7777 == 0o600, path
        assert not os.path.exists(path + '.tmp')
    return state, memory


def load(state, kind, path, resume=False, name='loaded', *more):
    vm = Vm(name, None, *more)
    vm.client.ok('PUT', '/snapshot/load', {'snapshot_path': state, 'mem_backend': {
        'backend_type': kind, 'backend_path': path}, 'resume_vm': resume, 'track_dirty_pages': True})
    return vm


def first_difference(a, b):
    assert len(a) == len(b), (len(a), len(b))
    if a == b:
        return None
    return hex(next(at for at in range(0, len(a), 4096) if a[at:at + 4096] != b[at:at + 4096]))


def content(path):
    with open(path, 'rb') as f:
        return f.read()


def pause(vm):
    vm.client.ok('PATCH', '/vm', {'state': 'Paused'})


def resume(vm):
    """Goes on, and the guest finds its memory right once more."""
    at = len(vm.text)
    vm.client.ok('PATCH', '/vm', {'state': 'Resumed'})
    for _ in range(2):
        at = vm.wait_for('right', at)
    assert b'WRONG' not in vm.text


def source(name='source', memory=96, fill=24, wrap=None):
    """A stopped guest that checks its own memory."""
    vm = Vm(name, wrap)
    vm.start('test=memory:%d' % fill, memory=memory)
    vm.wait_for('step 25 right')
    pause(vm)
    return vm


class Images:
    """Layers and headers, and the pagers that serve them."""

    def __init__(self, where):
        self.dir, self.count, self.pagers = where, 0, []
        os.makedirs(where + '/layers', exist_ok=True)

    def ingest(self, diff, parent):
        """The diff file becomes a layer; the child's header."""
        self.count += 1
        child = '%s/%d.hdr' % (self.dir, self.count)
        subprocess.run([LAYERTOOL, diff, self.dir + '/layers', str(parent), child], check=True)
        return child

    def serve(self, header, wrap=None):
        self.count += 1
        sock = '%s/%d.sock' % (self.dir, self.count)
        process = subprocess.Popen([PAGER, '--socket', sock, '--header', header, '--layers', self.dir + '/layers'],
                                   preexec_fn=wrap)
        self.pagers.append(process)
        end = time.monotonic() + TIMEOUT
        while not os.path.exists(sock):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.002)
        return sock, process

    def close(self):
        for p in self.pagers:
            if p.poll() is None:
                p.kill()
            p.wait()


def check_diff(vm, name, parent, limit=None):
    """Takes a Diff and a Full of the stopped guest: parent overlaid with the diff must be the full image."""
    state, memory = create(vm, name)
    image, data = overlay(parent, memory)
    assert limit is None or data < limit, data
    full = create(vm, name + '-full', 'Full')[1]
    at = first_difference(image, content(full))
    assert at is None, at
    os.unlink(full)
    return state, memory, image


def test_generations_by_file():
    """Diff of a booted guest, loaded by file; diffs of that, of both kinds; the guest's memory is right throughout."""
    size = 96 * MIB
    vm = source()
    state, memory, first = check_diff(vm, 'one', b'\0' * size)
    at = first_difference(first, ram_of(vm.qemu_pid(), size))
    assert at is None, at
    resume(vm)  # the source goes on
    pause(vm)
    _, _, after = check_diff(vm, 'more', first, 24 * MIB)
    at = first_difference(after, ram_of(vm.qemu_pid(), size))
    assert at is None, at
    vm.kill()
    again = load(state, 'File', memory, name='again')
    assert again.client.ok('GET', '/')['state'] == 'Paused'
    config = again.client.ok('GET', '/vm/config')
    assert config['boot-source']['boot_args'].startswith('console=') and config['machine-config']['mem_size_mib'] == 96
    assert config['machine-config']['track_dirty_pages'] is True
    assert overlay(first, create(again, 'none')[1])[1] < MIB // 4  # nothing ran
    resume(again)
    pause(again)
    state, memory, second = check_diff(again, 'two', first, 24 * MIB)
    at = first_difference(second, ram_of(again.qemu_pid(), size))
    assert at is None, at
    again.kill()
    whole = again.dir + '/whole'
    with open(whole, 'wb') as f:
        f.write(second)
    third = Vm('third')
    third.client.ok('PUT', '/snapshot/load', {'snapshot_path': state, 'mem_file_path': whole, 'resume_vm': True,
                                              'enable_diff_snapshots': True})
    assert third.client.ok('GET', '/')['state'] == 'Running'
    third.wait_for('right', third.wait_for('right'))
    assert b'WRONG' not in third.text


def generations_by_uffd(compares):
    size = 96 * MIB
    vm = source()
    images = Images(vm.dir + '/images')
    try:
        state, memory = create(vm, 'one')
        image = overlay(b'\0' * size, memory)[0]
        header = images.ingest(memory, size)
        vm.kill()
        for name in ('two', 'three'):
            sock, pager = images.serve(header)
            more = ('--no-pagemap-scan', '--memory-header', header, '--memory-layers', images.dir + '/layers')
            vm = load(state, 'Uffd', sock, False, name, *(more if compares else ()))
            state, memory = create(vm, name + '-still')
            assert overlay(image, memory)[1] < MIB // 4
            resume(vm)
            pause(vm)
            state, memory, image = check_diff(vm, name, image, 24 * MIB)
            at = first_difference(image, ram_of(vm.qemu_pid(), size))
            assert at is None, at
            header = images.ingest(memory, header)
            vm.kill()
            assert pager.wait(TIMEOUT) == 0
    finally:
        images.close()


def test_generations_by_uffd():
    """The same through the page server and layers; a full image faults all of it in."""
    generations_by_uffd(False)


def test_generations_by_comparing():
    """The same as on a kernel that does not tell what was written: no more is."""
    generations_by_uffd(True)


def ended(vm):
    """The process has ended as after a failed load, and its QEMU with it."""
    assert vm.end() == 1, vm.errors()
    return True


def refused_load(part, body, *more):
    vm = Vm('refused', None, *more)
    vm.client.refused('PUT', '/snapshot/load', body, part)
    assert ended(vm) and 'the load failed' in vm.errors()


def test_failed_loads():
    """Each ends the process, after the reason was told."""
    vm = source(fill=4)
    state, memory = create(vm, 'one')
    vm.kill()

    def by_file(**more):
        return dict({'snapshot_path': state, 'mem_file_path': memory}, **more)
    data = content(state)

    def variant(name, change):
        path = vm.dir + '/' + name
        with open(path, 'wb') as f:
            f.write(change)
        return path
    refused_load('truncated', by_file(snapshot_path=variant('short', data[:-1])))
    flipped = variant('flipped', data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    refused_load('damaged: the device state', by_file(snapshot_path=flipped))
    refused_load('Firecracker itself', by_file(snapshot_path=variant('fc', bytes.fromhex('0000648684191007'))))
    refused_load('newer fcqemu', by_file(snapshot_path=variant('new', data[:8] + b'\2' + data[9:])))
    refused_load('No such file', by_file(snapshot_path=vm.dir + '/nothing'))
    refused_load('Total sum of memory regions', by_file(mem_file_path=variant('small', b'x' * 4096)))
    refused_load('Unknown Network Device.', by_file(network_overrides=[{'iface_id': 'eth0', 'host_dev_name': 'tap0'}]))
    refused_load('Failed to connect to UDS Unix stream', {'snapshot_path': state, 'mem_backend': {
        'backend_type': 'Uffd', 'backend_path': vm.dir + '/no.sock'}})
    describe = subprocess.run([FCQEMU, '--describe-snapshot', state], capture_output=True, text=True, check=True)
    told = json.loads(describe.stdout)
    version = subprocess.run([FCQEMU, '--snapshot-version', '--qemu', boot.QEMU], capture_output=True, text=True,
                             check=True).stdout.strip()
    assert told['version'] == version and version == 'fcqemu-1/qemu-' + told['qemu_version'], (told, version)
    assert subprocess.run([FCQEMU, '--describe-snapshot', flipped], capture_output=True).returncode == 1
    khz = told['tsc_khz']
    refused_load('%d kHz' % khz, by_file(), '--tsc-khz', str(khz * 5 // 4))
    refused_load('%d kHz' % (khz * 5 // 4), by_file(), '--tsc-khz', str(khz * 5 // 4))
    for near in (khz * 10004 // 10000, khz * 93 // 100):
        ok = Vm('near', None, '--tsc-khz', str(near))
        ok.client.ok('PUT', '/snapshot/load', by_file())
        assert ('needs correction' in ok.errors()) == (near < khz)
        ok.kill()
    other = Vm('configured')
    other.client.ok('PUT', '/machine-config', {'vcpu_count': 1, 'mem_size_mib': 96})
    other.client.refused('PUT', '/snapshot/load', by_file(), 'after configuring boot-specific')
    assert other.client.ok('GET', '/')['state'] == 'Not started'


def test_lost_pager():
    """A page server that ends during the load, or later, costs an error, never a hang."""
    vm = source(fill=4)
    images = Images(vm.dir + '/images')
    try:
        state, memory = create(vm, 'one')
        header = images.ingest(memory, 96 * MIB)
        vm.kill()
        sock, pager = images.serve(header)
        os.kill(pager.pid, signal.SIGSTOP)
        loading = Vm('loading')
        answers = []
        thread = threading.Thread(target=lambda: answers.append(loading.client.call('PUT', '/snapshot/load', {
            'snapshot_path': state, 'mem_backend': {'backend_type': 'Uffd', 'backend_path': sock}})))
        thread.start()
        end = time.monotonic() + TIMEOUT
        children = '/proc/%d/task/%d/children' % (loading.process.pid, loading.process.pid)
        while not open(children).read():  # QEMU is there
            assert time.monotonic() < end
            time.sleep(0.002)
        qemu = loading.qemu_pid()
        pager.kill()
        thread.join(TIMEOUT)
        assert answers and answers[0][0] == 400 and 'page server' in answers[0][1]['fault_message'], answers
        assert ended(loading) and gone(qemu)
    finally:
        images.close()


def test_killed_qemu():
    """QEMU killed while its memory is written: the client is told, nothing half-made is left."""
    vm = source(memory=512, fill=128)
    qemu, tmp = vm.qemu_pid(), vm.dir + '/one.mem.tmp'
    answers = []
    thread = threading.Thread(target=lambda: answers.append(vm.client.call('PUT', '/snapshot/create', {
        'snapshot_path': vm.dir + '/one.state', 'mem_file_path': vm.dir + '/one.mem'})))
    thread.start()
    while not os.path.exists(tmp) or not os.stat(tmp).st_blocks:
        assert thread.is_alive()
    os.kill(qemu, signal.SIGKILL)
    thread.join(TIMEOUT)
    assert answers and answers[0][0] == 400 and 'QEMU ended' in answers[0][1]['fault_message'], answers
    assert vm.end() == 1
    assert not [n for n in os.listdir(vm.dir) if n.startswith('one')], os.listdir(vm.dir)


def test_failed_create_loses_nothing():
    """A diff that could not be written: nothing is left of it, and the next one has all of its pages."""
    size = 96 * MIB
    vm = source()
    first = overlay(b'\0' * size, create(vm, 'one')[1])[0]
    resume(vm)
    pause(vm)
    qemu = vm.qemu_pid()
    import resource
    old = resource.prlimit(qemu, resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
    body = {'snapshot_path': vm.dir + '/two.state', 'mem_file_path': vm.dir + '/two.mem', 'snapshot_type': 'Diff'}
    vm.client.refused('PUT', '/snapshot/create', body, 'File too large')
    resource.prlimit(qemu, resource.RLIMIT_FSIZE, old)
    vm.client.refused('PUT', '/snapshot/create', dict(body, mem_file_path=vm.dir + '/no/mem'), 'No such file')
    vm.client.refused('PUT', '/snapshot/create', dict(body, mem_file_path=body['snapshot_path']), 'the same file')
    assert not [n for n in os.listdir(vm.dir) if n.startswith('two')], os.listdir(vm.dir)
    assert vm.client.ok('GET', '/')['state'] == 'Paused'
    check_diff(vm, 'two', first)
    resume(vm)


def test_drives_after_a_load():
    """Another, larger file behind a drive of the source that goes on, and of a machine just loaded."""
    vm = Vm('drives')
    root = boot.disk(vm.dir + '/root', 'root', 8 * MIB)
    data = boot.disk(vm.dir + '/data', 'data', 4 * MIB)
    larger = boot.disk(vm.dir + '/larger', 'larger', 16 * MIB)
    huge = boot.disk(vm.dir + '/huge', 'huge', 32 * MIB)

    def before(c):
        c.ok('PUT', '/drives/rootfs', {'drive_id': 'rootfs', 'path_on_host': root, 'is_root_device': True})
        c.ok('PUT', '/drives/data', {'drive_id': 'data', 'path_on_host': data, 'is_root_device': False,
                                     'cache_type': 'Writeback'})
        c.ok('PUT', '/entropy', {})
    vm.start('test=disks', memory=128, before=before)
    vm.wait_for('vdb now size %d head data......' % (4 * MIB))
    pause(vm)
    state, memory = create(vm, 'one')
    vm.client.ok('PATCH', '/drives/data', {'drive_id': 'data', 'path_on_host': larger})
    at = len(vm.text)
    vm.client.ok('PATCH', '/vm', {'state': 'Resumed'})
    vm.wait_for('vdb now size %d head larger....' % (16 * MIB), at)
    vm.kill()
    again = load(state, 'File', memory)
    shown = again.client.ok('GET', '/vm/config')
    assert [d['path_on_host'] for d in shown['drives']] == [root, data] and shown['entropy'] == {'rate_limiter': None}, shown
    assert [d['cache_type'] for d in shown['drives']] == ['Unsafe', 'Writeback']
    again.client.ok('PATCH', '/drives/data', {'drive_id': 'data', 'path_on_host': huge})
    again.client.ok('PATCH', '/vm', {'state': 'Resumed'})
    at = again.wait_for('vdb now size %d head huge......' % (32 * MIB))
    pause(again)
    state, _ = create(again, 'two')
    assert json.loads(subprocess.run([FCQEMU, '--describe-snapshot', state], capture_output=True, check=True).stdout)[
        'machine']['drives'][1]['path_on_host'] == huge
    os.unlink(data)
    refused_load('Virtio backend error', {'snapshot_path': vm.dir + '/one.state', 'mem_file_path': memory})


def test_jail_two_vcpus_and_network():
    """Without any privilege, in another network namespace, on another tap: the guest answers as before."""
    boot.in_network_namespace(network_source)


def network_source():
    import socket
    for tap in ('tap0', 'tap1'):
        for command in ('tuntap add %s mode tap user 65534', 'link set %s up'):
            subprocess.run(['ip'] + (command % tap).split(), check=True)
    subprocess.run('ip address add 169.254.0.22/30 dev tap0'.split(), check=True)
    vm = Vm('jailed', boot.jail)

    def before(c):
        c.ok('PUT', '/network-interfaces/eth0', {'iface_id': 'eth0', 'host_dev_name': 'tap0', 'guest_mac': boot.MAC,
                                                 'mtu': 1400})
        c.ok('PUT', '/entropy', {})

    def echo():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(1)
        for _ in range(TIMEOUT):
            s.sendto(b'hello', ('169.254.0.21', 7))
            try:
                assert s.recv(100) == b'hello'
                return
            except socket.timeout:
                pass
        raise AssertionError('no answer from the guest')
    vm.start('test=echo', memory=96, vcpus=2, before=before)
    vm.wait_for('listening')
    echo()
    pause(vm)
    images = Images(vm.dir + '/images')
    os.chmod(images.dir, 0o777)
    os.chmod(images.dir + '/layers', 0o777)
    try:
        state, memory = create(vm, 'one')
        assert os.stat(memory).st_uid == 65534
        image = overlay(b'\0' * (96 * MIB), memory)[0]
        vm.kill()
        subprocess.run('ip address del 169.254.0.22/30 dev tap0'.split(), check=True)
        subprocess.run('ip address add 169.254.0.22/30 dev tap1'.split(), check=True)
        header = images.ingest(memory, 96 * MIB)
        for folder, _, names in os.walk(images.dir):
            for name in names:
                os.chown(folder + '/' + name, 65534, 65534)
        sock, _ = images.serve(header, boot.jail)
        vm = Vm('again', boot.jail)
        vm.client.ok('PUT', '/snapshot/load', {
            'snapshot_path': state, 'mem_backend': {'backend_type': 'Uffd', 'backend_path': sock}, 'resume_vm': True,
            'network_overrides': [{'iface_id': 'eth0', 'host_dev_name': 'tap1'}]})
        assert vm.client.ok('GET', '/vm/config')['network-interfaces'][0]['host_dev_name'] == 'tap1'
        echo()
        pause(vm)
        check_diff(vm, 'two', image)
        vm.client.ok('PATCH', '/vm', {'state': 'Resumed'})
        echo()
    finally:
        images.close()
        vm.kill()


if __name__ == '__main__':
    sys.exit(boot.run(globals()))
