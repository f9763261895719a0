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
    for at in range(0, len(a), 4096):
        if a[at:at + 4096] != b[at:at + 4096]:
            return at
    return None


def test_file_generations():
    """Diff of a booted guest, loaded by file; a second diff of that; loaded again."""
    size = 128 * MIB
    vm = Vm('source')
    vm.start('test=memory:32', memory=128)
    vm.wait_for('step 25 right')
    vm.client.ok('PATCH', '/vm', {'state': 'Paused'})
    state, memory = create(vm, 'one')
    first, data = overlay(b'\0' * size, memory)
    at = first_difference(first, ram_of(vm.qemu_pid(), size))
    assert at is None, hex(at)
    print('first diff: %.1f MiB' % (data / MIB))
    vm.client.ok('PATCH', '/vm', {'state': 'Resumed'})
    vm.wait_for('right', len(vm.text))
    vm.kill()
    again = load(state, 'File', memory, name='again')
    assert again.client.ok('GET', '/')['state'] == 'Paused'
    config = again.client.ok('GET', '/vm/config')
    assert config['boot-source'] == {} and config['machine-config']['mem_size_mib'] == 128
    at = len(again.text)
    again.client.ok('PATCH', '/vm', {'state': 'Resumed'})
    again.wait_for('right', at)
    again.client.ok('PATCH', '/vm', {'state': 'Paused'})
    state2, memory2 = create(again, 'two')
    second, data = overlay(first, memory2)
    print('second diff: %.1f MiB' % (data / MIB))
    assert data < 24 * MIB
    at = first_difference(second, ram_of(again.qemu_pid(), size))
    assert at is None, hex(at)


if __name__ == '__main__':
    sys.exit(boot.run(globals()))
