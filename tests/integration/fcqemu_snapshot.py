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
    assert config['boot-source'] == {} and config['machine-config']['mem_size_mib'] == 96
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


def test_generations_by_uffd():
    """The same through the page server and layers; a full image faults all of it in."""
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
            vm = load(state, 'Uffd', sock, name=name)
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


if __name__ == '__main__':
    sys.exit(boot.run(globals()))
