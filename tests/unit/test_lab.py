#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/lab/lab, with shell scripts in place of QEMU and ssh: what it makes of a lab that breaks,
and that nothing of it stays."""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import select
import signal
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))
import lib  # noqa: E402
# The last argument but "file:" is where the console goes.
BOOTS = 'for a; do :; done; echo "lab: ready 1.0" >"${a#file:}"; exec sleep 600'


def load(name="lab", folder="tests/lab"):
    loader = importlib.machinery.SourceFileLoader(name, os.path.join(ROOT, folder, name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


class Lab(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="stasis-lab-test.")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.old = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(self.old)))
        os.environ.update(PATH=f"{self.dir}/bin:{os.environ['PATH']}", TMPDIR=f"{self.dir}/tmp")
        for name in ("bin", "tmp", "machine"):
            os.mkdir(os.path.join(self.dir, name))
        open(os.path.join(self.dir, "machine/vmlinuz-6.12"), "w").close()
        self.play(BOOTS)
        self.program("ssh-keygen", "")
        self.lab = load()
        self.lab.KERNEL = "6.12"
        self.lab.FIRECRACKER = self.lab.OTHER = ""
        self.replace(self.lab.machine, "take", lambda _: (self.dir + "/machine", None))
        self.lab.pack = lambda path, work, deb: None
        self.lab.Lab.take_logs = lambda lab: None
        self.lab.host_has_kvm = lambda: (False, "played")

    def replace(self, module, name, value):
        """Of a module that other tests have too."""
        patch = unittest.mock.patch.object(module, name, value)
        patch.start()
        self.addCleanup(patch.stop)

    def program(self, name, text):
        path = os.path.join(self.dir, "bin", name)
        with open(path, "w") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, 0o755)

    def play(self, qemu, ssh='case "$*" in *tests/run*) exit 3 ;; esac'):
        self.program("qemu-system-x86_64", f"echo $$ >>{self.dir}/pids\n" + qemu)
        self.program("ssh", ssh)

    def hangs(self):
        """A connection that lives as long as its machine: an interrupt may come before it is
        known, and then that alone ends it."""
        return f'while kill -0 "$(tail -n 1 {self.dir}/pids)" 2>/dev/null; do sleep 0.1; done'

    def ask(self):
        """Exit code and output of "lab test"."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = self.lab.test([])
        return code, out.getvalue()

    def tearDown(self):
        self.assertEqual(os.listdir(os.path.join(self.dir, "tmp")), [])
        for pid in self.pids():
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def pids(self):
        """Of the machines that were started."""
        if not os.path.exists(self.dir + "/pids"):
            return []
        with open(self.dir + "/pids") as f:
            return list(map(int, f))

    def booted(self):
        return len(self.pids())

    def test_gives_what_the_tests_gave(self):
        code, out = self.ask()
        self.assertEqual((code, self.booted()), (3, 1))
        self.assertNotIn("BROKEN", out)

    def test_broken_once(self):
        self.play(f'if mkdir {self.dir}/once 2>/dev/null; then exit 7; fi; ' + BOOTS)
        code, out = self.ask()
        self.assertEqual((code, self.booted()), (3, 2))
        self.assertEqual(out.count("LAB BROKEN: QEMU ended with 7"), 1, out)

    def test_broken_twice_is_a_failure(self):
        self.play('for a; do :; done; echo "[ 1.0] Kernel panic - not syncing" >"${a#file:}"; '
                  'exec sleep 600')
        code, out = self.ask()
        self.assertEqual((code, self.booted()), (1, 2))
        self.assertEqual(out.count("LAB BROKEN: Kernel panic"), 2, out)
        self.assertEqual(out.splitlines()[-1], "0 passed, 1 failed, 0 skipped")

    def test_panic_while_tests_run(self):
        """The connection hangs then; it is not waited for."""
        self.play('for a; do :; done; echo "lab: ready" >"${a#file:}"; '
                  f'until [ -e {self.dir}/begun ]; do sleep 0.05; done; '
                  'echo "Kernel panic" >>"${a#file:}"; exec sleep 600',
                  f'case "$*" in *tests/run*) touch {self.dir}/begun; {self.hangs()} ;; esac')
        code, out = self.ask()
        self.assertEqual((code, out.count("LAB BROKEN: Kernel panic")), (1, 2), out)

    def test_lost_connection(self):
        self.play(BOOTS, 'case "$*" in *tests/run*) exit 255 ;; esac')
        code, out = self.ask()
        self.assertEqual((code, out.count("LAB BROKEN: the connection")), (1, 2), out)

    def test_a_kernel_that_is_not_there(self):
        self.lab.KERNEL = "5.10"
        with self.assertRaises(SystemExit) as told:
            self.ask()
        self.assertEqual(str(told.exception), "lab: KERNEL=5.10: there is 6.12")

    def test_own_kvm_is_used(self):
        self.lab.host_has_kvm = lambda: (True, "")
        self.program("run", f'exec >{self.dir}/said; '
                            'echo "$STASIS_EXPECT_ISOLATION $STASIS_EXPECT_VMM $*"; '
                            'echo "other: $STASIS_FIRECRACKER_OTHER"; '
                            'command -v firecracker; exit 5')
        self.lab.RUN = os.path.join(self.dir, "bin/run")
        self.assertEqual(self.ask()[0], 5)
        with open(self.dir + "/said") as f:
            self.assertEqual((f.readline(), f.readline()), ("kvm fcqemu kvm\n", "other: \n"))
        self.lab.FIRECRACKER, self.lab.OTHER = "/bin/true", "/bin/false"
        self.assertEqual(self.ask()[0], 5)
        with open(self.dir + "/said") as f:
            self.assertEqual((f.readline(), f.readline()),
                             ("kvm Firecracker kvm\n", "other: /bin/false\n"))
            self.assertRegex(f.readline(), "/firecracker\n$")

    def test_firecracker_of_the_path(self):
        """What the server takes by itself is what is expected."""
        self.lab.host_has_kvm = lambda: (True, "")
        self.program("firecracker", "")
        self.program("run", f'echo "$STASIS_EXPECT_VMM" >{self.dir}/said')
        self.lab.RUN = os.path.join(self.dir, "bin/run")
        self.assertEqual(self.ask()[0], 0)
        with open(self.dir + "/said") as f:
            self.assertEqual(f.read(), "Firecracker\n")

    def smoke(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = self.lab.smoke()
        return code, out.getvalue()

    def test_smoke(self):
        self.lab.no_room = lambda: ""
        self.assertEqual((self.smoke()[0], self.booted()), (3, 1))

    def test_smoke_is_skipped_loudly(self):
        def not_made(_):
            raise self.lab.machine.NotMade("no network")
        self.lab.no_room = lambda: "little of it"
        self.assertEqual(self.smoke(), (77, "\n*** NOT TESTED ON KVM: little of it\n\n"))
        self.lab.no_room = lambda: ""
        self.replace(self.lab.machine, "take", not_made)
        code, out = self.smoke()
        self.assertEqual(code, 77)
        self.assertIn("*** NOT TESTED ON KVM: the lab's machine cannot be made: no network", out)
        os.environ["STASIS_TEST_KVM"] = "no"
        self.assertEqual(self.smoke(), (77, "\n*** NOT TESTED ON KVM: STASIS_TEST_KVM=no\n\n"))
        self.assertEqual(self.booted(), 0)

    def test_smoke_where_kvm_works_needs_no_room(self):
        self.lab.host_has_kvm = lambda: (True, "")
        self.lab.no_room = lambda: "little of it"
        self.program("run", "exit 5")
        self.lab.RUN = os.path.join(self.dir, "bin/run")
        self.assertEqual(self.smoke()[0], 5)

    def test_tools_that_are_not_there(self):
        """As where the packages of the section lab could not be installed: no mirror."""
        self.lab.available_gib = self.lab.free_gib = lambda *_: 100
        self.lab.TOOLS = ("qemu-system-x86_64", "no-ssh-here")
        os.environ["PATH"] = self.dir + "/bin"
        code, out = self.smoke()
        self.assertEqual((code, self.booted()), (77, 0))
        self.assertIn("*** NOT TESTED ON KVM: no-ssh-here", out)
        self.assertIn(" not found: ", out)

    def test_a_cache_that_cannot_be_written(self):
        machine = load("machine.py")
        open(self.dir + "/file", "w").close()
        with self.assertRaises(machine.NotMade):
            machine.take(self.dir + "/file/cache")

    def test_memory_that_a_container_is_left(self):
        with open("/proc/self/cgroup") as f:
            path = next((line[3:].strip() for line in f if line.startswith("0::")), "/")
        here = os.path.normpath(self.dir + "/cgroup" + path)
        os.makedirs(here)
        self.assertEqual(self.lab.cgroup_gib(self.dir + "/cgroup"), float("inf"))
        for place, limit in (here, "max"), (self.dir + "/cgroup", str(5 << 30)):
            with open(place + "/memory.max", "w") as f:
                f.write(limit + "\n")
            with open(place + "/memory.current", "w") as f:
                f.write(f"{1 << 30}\n")
        self.assertEqual(self.lab.cgroup_gib(self.dir + "/cgroup"), 4)

    def test_room(self):
        self.lab.CACHE = self.dir + "/not/there"
        self.lab.available_gib = lambda: 4.9
        self.lab.free_gib = lambda place: 100
        self.assertEqual(self.lab.no_room(), "4.9 GiB of memory available, a lab wants 5")
        self.lab.RAM = "3584M"
        self.assertEqual(self.lab.no_room(), "")
        self.lab.free_gib = lambda place: 1 if place == self.lab.CACHE else 100
        self.assertIn(f"free in {self.lab.CACHE}", self.lab.no_room())
        self.lab.free_gib = lambda place: 1 if place != self.lab.CACHE else 100
        self.assertIn(f"free in {self.dir}/tmp", self.lab.no_room())

    def test_a_world_gives_the_signals_back(self):
        """The image is built in one; a lab that is told to end afterwards still cleans up."""
        old = {sig: signal.getsignal(sig) for sig in (signal.SIGINT, signal.SIGTERM)}
        self.addCleanup(lambda: [signal.signal(*pair) for pair in old.items()])
        signal.signal(signal.SIGTERM, self.lab.stop)
        world = object.__new__(lib.World)
        world.volume, world.two, world.server, world.host = False, False, None, None
        world.dir = self.dir + "/tmp/world"
        world.stop = world.api = lambda *_: unittest.mock.MagicMock()
        world.close()
        self.assertEqual(signal.getsignal(signal.SIGTERM), self.lab.stop)
        self.assertEqual(signal.getsignal(signal.SIGINT), old[signal.SIGINT])

    def test_interrupted(self):
        """By a signal to this process alone, while the tests run."""
        self.play(BOOTS, f'case "$*" in *tests/run*) kill -INT {os.getpid()}; {self.hangs()}; esac')
        self.assertRaises(KeyboardInterrupt, self.ask)

    def test_killed(self):
        """Its machine does not outlive it."""
        self.program("parent", "exec " + sys.executable + " -c '" + (
            "import os, subprocess, sys; sys.argv = [\"lab\"];"
            f"sys.path.insert(0, \"{os.path.dirname(os.path.abspath(__file__))}\");"
            "import test_lab; lab = test_lab.load();"
            "p = subprocess.Popen([\"sleep\", \"600\"], preexec_fn=lab.with_us);"
            "print(p.pid, flush=True); os.kill(os.getpid(), 9)'"))
        done = subprocess.run([os.path.join(self.dir, "bin/parent")], stdout=subprocess.PIPE,
                              check=False, timeout=60)
        self.assertEqual(done.returncode, -signal.SIGKILL)
        pid = int(done.stdout)
        try:
            ended = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self.assertTrue(select.select([ended], [], [], 60)[0])
        os.close(ended)


class Machine(unittest.TestCase):
    """The cache of machines."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="stasis-lab-test.")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.machine = load().machine
        self.name = ""
        for name, value in (("path", lambda cache: os.path.join(cache, "lab", self.name)),
                            ("make", self.make), ("say", lambda _: None)):
            patch = unittest.mock.patch.object(self.machine, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        self.made, self.clock = [], 1000

    def make(self, there):
        self.made.append(os.path.basename(there))
        os.mkdir(there)

    def take(self, name, keep=False):
        self.name = name
        there, fd = self.machine.take(self.dir)
        self.clock += 10
        os.utime(there, (self.clock, self.clock))
        if not keep:
            os.close(fd)
        return fd

    def there(self):
        return sorted(n for n in os.listdir(self.dir + "/lab") if n != "lock")

    def test_two_trees_keep_theirs(self):
        for name in ("a", "b", "a", "b"):
            self.take(name)
        self.assertEqual((self.made, self.there()), (["a", "b"], ["a", "b"]))

    def test_the_last_used_stays(self):
        for name in ("a", "b", "a", "c"):
            self.take(name)
        self.assertEqual(self.there(), ["a", "c"])

    def test_use_is_noted(self):
        """By take() itself: these times are long ago."""
        self.take("a")
        self.take("b")
        fd = self.take("a", keep=True)
        os.utime(self.dir + "/lab/a", (1, 1))
        os.close(self.machine.take(self.dir)[1])
        os.close(fd)
        self.take("c")
        self.assertEqual(self.there(), ["a", "c"])

    def test_one_in_use_stays(self):
        fd = self.take("a", keep=True)
        for name in ("b", "c", "d"):
            self.take(name)
        self.assertEqual(self.there(), ["a", "c", "d"])
        os.close(fd)
        self.take("e")
        self.assertEqual(self.there(), ["d", "e"])

    def test_unfinished_ones_go(self):
        self.take("a")
        os.mkdir(self.dir + "/lab/b.new")
        self.take("c")
        self.assertEqual(self.there(), ["a", "c"])

    def test_not_made(self):
        self.name = "a"
        with unittest.mock.patch.object(self.machine, "make",
                                        side_effect=self.machine.NotMade("x")):
            self.assertRaises(self.machine.NotMade, self.machine.take, self.dir)
        self.take("a")


class All(unittest.TestCase):
    """tests/lab/all, with a script in place of tests/lab/lab."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="stasis-lab-test.")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name

    def start(self, text, kernels="6.12 6.1", firecrackers=("",), room=20, works=False):
        """all as a program, which it has to be for its signals."""
        with open(self.dir + "/lab", "w") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(self.dir + "/lab", 0o755)
        with open(self.dir + "/drive", "w") as f:
            f.write(f"""
import os, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
import test_lab
a = test_lab.load("all")
a.HERE = a.lab.BUILD = {self.dir!r}
a.lab.host_has_kvm = lambda: ({works}, "")
a.lab.available_gib = lambda: {room}
a.lab.machine.take = lambda _: (None, os.open("/dev/null", os.O_RDONLY))
os.geteuid, os.cpu_count, sys.argv = lambda: 0, lambda: 2, ["all", "word"]
sys.exit(a.main())
""")
        env = {**os.environ, "KERNEL": kernels, "FIRECRACKER": " ".join(firecrackers)}
        return subprocess.Popen([sys.executable, self.dir + "/drive"], env=env, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def ask(self, *args, **kw):
        program = self.start(*args, **kw)
        out = program.communicate(timeout=60)[0]
        return program.returncode, out

    SAYS = ('echo "seen: Linux $KERNEL.9-x, isolation kvm, ${FIRECRACKER:-fcqemu} 1.2, '
            'dirty tracking: exact (X)"; echo "5 passed, 0 failed, 1 skipped"')

    def test_table(self):
        code, out = self.ask(f'[ "$1 $2" = "test word" ] || exit 9; {self.SAYS}',
                             firecrackers=("/bin/true", "/bin/false"))
        self.assertEqual(code, 0, out)
        self.assertIn("lab: 6 runs, 2 at a time\n", out)
        table = [line.split() for line in out.split("\n\n")[1].splitlines()]
        self.assertEqual([row[:5] for row in table[1:]], [
            [kernel + ".9", vmm, "1.2", "kvm", "exact"] for kernel in ("6.12", "6.1")
            for vmm in ("fcqemu", "/bin/true", "/bin/false")], out)
        self.assertTrue(all(row[-1] == "passed" and row[6:9] == ["5", "0", "1"]
                            for row in table[1:]), out)
        with open(self.dir + "/test-logs/lab-6.1-true.log") as f:
            self.assertIn("seen: Linux 6.1.9", f.read())

    def test_one_that_fails(self):
        code, out = self.ask(f'{self.SAYS}; [ $KERNEL != 6.1 ] || exit 3')
        self.assertEqual(code, 1)
        self.assertEqual([line.endswith("FAILED (3)") for line in out.splitlines()[-2:]],
                         [False, True], out)

    def test_one_that_does_not_say_on_what(self):
        code, out = self.ask('echo "5 passed, 0 failed, 0 skipped"', kernels="6.1")
        self.assertEqual(code, 1)
        self.assertIn("FAILED: does not say on what it ran", out)

    def test_little_memory(self):
        begins = f'[ ! -e {self.dir}/busy ] || exit 8; >{self.dir}/busy; '
        code, out = self.ask(f'{begins} {self.SAYS}; rm {self.dir}/busy', room=8)
        self.assertEqual(code, 0, out)
        self.assertIn("2 runs, 1 at a time", out)

    def test_own_kvm(self):
        """Its kernel is the one that there is."""
        code, out = self.ask(self.SAYS.replace("$KERNEL", "${KERNEL:-5.5}"), works=True,
                             firecrackers=("/bin/true",))
        self.assertEqual(code, 0, out)
        self.assertIn("lab: 2 runs, 1 at a time\n", out)
        self.assertIn("[own-true] seen: Linux 5.5.9-x", out)

    def test_same_names(self):
        copy = self.dir + "/true"
        os.symlink("/bin/true", copy)
        code, out = self.ask(self.SAYS, kernels="6.1", firecrackers=("/bin/true", copy))
        self.assertEqual(code, 0, out)
        self.assertIn("[6.1-true] ", out)
        self.assertIn("[6.1-true+] ", out)

    def ended(self, sig):
        """Both labs are told, and waited for; the others do not begin."""
        program = self.start(f'trap "sleep 0.3; echo $KERNEL >>{self.dir}/ended; exit 143" TERM; '
                             'echo begun; while :; do sleep 0.1; done',
                             firecrackers=("/bin/true",))
        for _ in range(3):  # the first line is its own
            program.stdout.readline()
        program.send_signal(sig)
        out = program.communicate(timeout=60)[0]
        with open(self.dir + "/ended") as f:
            self.assertEqual(f.read(), "6.12\n6.12\n", out)
        self.assertEqual(out.count("not run"), 2, out)
        return program.returncode

    def test_interrupted(self):
        self.assertEqual(self.ended(signal.SIGINT), 130)

    def test_told_to_end(self):
        self.assertEqual(self.ended(signal.SIGTERM), 143)

    def test_no_program(self):
        code, out = self.ask(self.SAYS, firecrackers=(self.dir,))
        self.assertEqual((code, out), (1, f"lab: FIRECRACKER={self.dir}: not a program\n"))


class Smoke(unittest.TestCase):
    """What tests/run makes of the smoke, with a script in its place."""

    def ask(self, text):
        run = load("run", "tests")
        with tempfile.TemporaryDirectory(prefix="stasis-lab-test.") as run.ROOT:
            os.makedirs(run.ROOT + "/tests/lab")
            with open(run.ROOT + "/tests/lab/lab", "w") as f:
                f.write("#!/bin/sh\n" + text + "\n")
            os.chmod(run.ROOT + "/tests/lab/lab", 0o755)
            totals, out = run.Totals(), io.StringIO()
            with contextlib.redirect_stdout(out):
                run.run_smoke(totals, [])
        return totals

    def test_passed(self):
        t = self.ask('echo "seen: X"; echo "7 passed, 0 failed, 1 skipped"')
        self.assertEqual((t.passed, t.failed, t.notes), (7, [], ["on KVM seen: X"]))

    def test_failed(self):
        t = self.ask('echo "FAILED: demo"; echo "6 passed, 1 failed, 0 skipped"; exit 1')
        self.assertEqual((t.passed, t.failed), (6, ["on KVM: demo"]))

    def test_ended_without_a_word(self):
        t = self.ask("echo oh; exit 9")
        self.assertEqual(t.failed, ["smoke on KVM: tests/lab/lab ended with 9"])

    def test_skipped_is_said_at_the_end(self):
        t = self.ask('echo; echo "*** NOT TESTED ON KVM: little"; echo; exit 77')
        self.assertEqual((t.failed, t.notes), ([], ["*** NOT TESTED ON KVM: little"]))
        self.assertEqual(t.skipped, [("smoke on KVM", "NOT TESTED ON KVM: little")])


class Expected(unittest.TestCase):
    """What a server says that its guests run on, against what is expected."""

    def check(self, isolation, vmm, **expected):
        host = {"isolation": isolation, "vmm": vmm}
        world = types.SimpleNamespace(
            api=lambda *_: types.SimpleNamespace(json=lambda: host))
        with unittest.mock.patch.dict(os.environ, {"STASIS_EXPECT_" + k: v
                                                   for k, v in expected.items()}):
            return lib.World.check_host(world)["isolation"]

    def test_quietly_something_else(self):
        for isolation, vmm in (("emulated", "fcqemu 0.1.0 (QEMU 7.2.22, tcg)"),
                               ("kvm", "Firecracker v1.16.1"), ("", "fcqemu")):
            with self.subTest(isolation=isolation, vmm=vmm), self.assertRaises(AssertionError):
                self.check(isolation, vmm, ISOLATION="kvm", VMM="fcqemu")

    def test_as_expected(self):
        self.assertEqual(self.check("kvm", "fcqemu 0.1.0", ISOLATION="kvm", VMM="fcqemu"), "kvm")
        self.assertEqual(self.check("kvm", "Firecracker v1", ISOLATION="kvm"), "kvm")
        self.assertEqual(self.check("emulated", "fcqemu"), "emulated")


if __name__ == "__main__":
    unittest.main()
