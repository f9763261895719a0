# SPDX-License-Identifier: Apache-2.0
# The short way to meson, ninja and the tests. Needs make and nothing else: what is missing is
# installed from the distribution (packaging/debian-packages.txt).
#
#	make            install what the build needs, build into build/
#	make demo       the whole thing once, on a temporary volume, with times
#	make test       all tests, with real guests (STASIS_TEST_KVM=no: without the lab's)
#	make lab        a shell in an emulated machine that has KVM (CMD='...': a command instead)
#	make test-kvm   tests on KVM: this machine's, or in the lab (make test-kvm-smoke: a part;
#	                make test-kvm-all: each kernel with each VMM; make test-kvm-systemd: the
#	                package, as a service, in the lab)
#	make check      format, static analysis, gcc and clang, sanitizers, threads
#	make coverage   lines and branches that the tests reach, by room (E2E=1: with guests)
#	make bench      the figures of bench/README.md
#	make install    PREFIX=/usr/local DESTDIR= (and make uninstall)
#	make deb        a Debian package, in dist/ (make dist: the sources)
#	make test-distros  build, unit tests, package in chroots of Debian 12 and 13
#	make release    VERSION=x.y.z: version, tag

PREFIX ?= /usr/local
DESTDIR ?=
B := build
# Shadow memory of the sanitizers of gcc 12 and clang 14 meets what newer kernels place at random.
FIXED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
UNIT := $(FIXED) meson test --no-rebuild --suite unit --print-errorlogs --num-processes 2

export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL := C.UTF-8
.PHONY: all deps build demo test lab test-kvm test-kvm-smoke test-kvm-systemd test-kvm-all check \
	coverage format bench install uninstall deb dist release test-distros clean

all: build

deps:
	@scripts/deps build

build: deps
	@test -f $(B)/build.ninja || meson setup $(B) --prefix=$(PREFIX)
	@ninja -C $(B)

demo: build
	@scripts/deps run
	@scripts/demo

test: build
	@scripts/deps run test
	@$(if $(filter no,$(STASIS_TEST_KVM)),,scripts/deps lab || echo "no lab without these packages")
	@tests/run

# KERNEL=6.1, FIRECRACKER=/path, FIRECRACKER_OTHER=/path, LAB_RAM=8G: see tests/lab/lab (of test-kvm-all tests/lab/all).
export KERNEL FIRECRACKER FIRECRACKER_OTHER LAB_RAM CMD STASIS_TEST_KVM
lab: build
	@scripts/deps run test lab
	@tests/lab/lab shell $(if $(CMD),"$$CMD")

test-kvm: build
	@scripts/deps run test lab
	@tests/lab/lab test

# The package under systemd: installed, used, upgraded, removed.
test-kvm-systemd: build
	@scripts/deps run test lab deb
	@DEB_BUILD_OPTIONS=nocheck scripts/deb
	@tests/lab/lab package dist/stasis_*.deb

test-kvm-smoke: build
	@scripts/deps run test lab
	@tests/lab/lab smoke

test-kvm-all: build
	@scripts/deps run test lab
	@tests/lab/all

# Of the cuts at fault points with real guests. All are played, with the same code of the server, and
# a share of them under the sanitizers (tests/unit/sandbox).
SANITIZED_FAULTS := two z capture_capture_after_memory capture_ingest_after_layer resume_resume_after_load

# Each step says what it found; the first that finds anything ends it. Quick ones first. What takes
# a guest comes last, so that nothing is beside it. The build of clang, whose warnings are wanted, is
# the one for threads too. What a sanitizer adds to each access makes -O2 slow to compile (gcc: 2.3
# times -O1) and the programs hardly faster.
check: build
	@scripts/deps run test check
	clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')
	@mkdir -p $(B)/cppcheck
	cppcheck -q -j2 --cppcheck-build-dir=$(B)/cppcheck --error-exitcode=1 --inline-suppr --std=c11 \
		-D__x86_64__ -D_GNU_SOURCE --enable=warning,portability --library=scripts/cppcheck.cfg \
		--suppressions-list=scripts/cppcheck.txt -Isrc src
	test -f build-clang-tsan/build.ninja || CC=clang meson setup build-clang-tsan \
		-Db_sanitize=thread -Db_lundef=false -Doptimization=1 \
		-Dc_args=-fsanitize-ignorelist=$(CURDIR)/scripts/tsan-ignore.txt
	ninja -C build-clang-tsan
	TSAN_OPTIONS=suppressions=$(CURDIR)/scripts/tsan.txt \
		$(UNIT) --no-suite tree -C build-clang-tsan --timeout-multiplier 10
	test -f build-asan/build.ninja || meson setup build-asan \
		-Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1
	ninja -C build-asan
	$(UNIT) --no-suite tree -C build-asan --timeout-multiplier 5
	tests/run sanitized exec.Buffered exec.Stream life. pause \
		$(addprefix lifefaults.LifeFaults.test_,$(SANITIZED_FAULTS))

coverage: build
	@scripts/deps test $(if $(E2E),run)
	@scripts/coverage $(if $(E2E),e2e)

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

bench: build
	@scripts/deps run test
	@bench/run

# What goes where stands in packaging/installed.
install: build
	@test "$$(meson introspect $(B) --buildoptions | python3 -c 'import json,sys; \
		print(next(o["value"] for o in json.load(sys.stdin) if o["name"] == "prefix"))')" \
		= $(PREFIX) || { meson configure $(B) -Dprefix=$(PREFIX) && ninja -C $(B); }
	@meson install -C $(B) --no-rebuild $(if $(DESTDIR),--destdir $(abspath $(DESTDIR)))

uninstall:
	@packaging/uninstall $(PREFIX) $(if $(DESTDIR),$(abspath $(DESTDIR)))

deb:
	@scripts/deps build deb test
	@scripts/deb

# A tarball of what is committed: the same commit, the same bytes.
dist:
	@scripts/dist

# make release VERSION=x.y.z
release:
	@scripts/release "$(VERSION)"

test-distros:
	@scripts/deps distros
	@scripts/test-distros

clean:
	rm -rf build build-asan build-clang-tsan build-coverage dist
