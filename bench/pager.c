// SPDX-License-Identifier: Apache-2.0
// stasis-pager against its floors, in the same run, interleaved; medians of ROUNDS. Needs root.
//
//	bench/pager PAGER [MIB [HANDLER NOSUMS]]
//
//  fault        CPU of the pager per 4 KiB fault, against (a) the CPU of a bare UFFDIO_COPY and
//               (b) of a minimal server (poll, read, UFFDIO_COPY; no checksum, no lookup)
//  handler      the same against HANDLER, a program with the arguments SOCKET MEMORY that serves
//               faults for Firecracker (the example of its source), and of NOSUMS, our pager
//               without checksums (bench/nosums.c); ratios are medians of the pairs
//  prefetch     speed of loading a recorded working set ahead, against bare UFFDIO_COPY of 64 KiB
//  generations  time to touch all of memory, from an image of 30 generations against one of 1
//
// Memory is touched in a random order by one thread. Sources are in the page cache, which all that
// is measured reads by mmap.
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/missing.h"
#include "base/proc.h"
#include "snapshot/ingest.h"
#include "snapshot/working_set.h"

#define ROUNDS 11
#define BLOCK SNAPSHOT_BLOCK

static char dir[] = "/tmp/stasis-bench-pager-XXXXXX";
static uint64_t size;
static uint32_t *order; // of the blocks touched

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void check(int r, const struct err *e)
{
	if (r < 0) {
		fprintf(stderr, "%s\n", err_text(e, r));
		exit(1);
	}
}

static const char *path(const char *name)
{
	static char p[32][300]; // enough for all that are in use at once
	static int i;
	i = (i + 1) % 32;
	snprintf(p[i], sizeof p[i], "%s/%s", dir, name);
	return p[i];
}

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	return *s ^= *s << 17;
}

static int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static double median(double *v, size_t n)
{
	qsort(v, n, sizeof *v, compare_double);
	return v[n / 2];
}

static double cpu_of_thread(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

// --- memory under a userfaultfd

struct vm {
	uint8_t *memory;
	int uffd;
};

static struct vm vm_new(void)
{
	struct vm v;
	v.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
	if (v.uffd < 0 || ioctl(v.uffd, UFFDIO_API, &api) < 0)
		die("userfaultfd");
	v.memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	madvise(v.memory, size, MADV_NOHUGEPAGE);
	struct uffdio_register reg = {
		.range = {(uintptr_t)v.memory, size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	if (v.memory == MAP_FAILED || ioctl(v.uffd, UFFDIO_REGISTER, &reg) < 0)
		die("UFFDIO_REGISTER");
	return v;
}

static void vm_free(struct vm *v)
{
	close(v->uffd);
	munmap(v->memory, size);
}

static void touch(const struct vm *v)
{
	for (uint64_t i = 0; i < size / BLOCK; i++)
		(void)*(volatile uint8_t *)(v->memory + (uint64_t)order[i] * BLOCK);
}

static const uint8_t *map_file(const char *name)
{
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	const uint8_t *p = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (fd < 0 || p == MAP_FAILED)
		die(name);
	close(fd);
	return p;
}

static void copy(int uffd, uint8_t *to, const uint8_t *from, uint64_t len)
{
	struct uffdio_copy c = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = len};
	if (ioctl(uffd, UFFDIO_COPY, &c) < 0)
		die("UFFDIO_COPY");
}

// Bare ioctls in the order of the faults, of chunk bytes; nanoseconds of CPU per block.
static double bare_copy(const char *file, uint64_t chunk, double *ret_bytes_per_s)
{
	struct vm v = vm_new();
	const uint8_t *src = map_file(file);
	uint64_t n = size / chunk, sum = 0;
	if (chunk == BLOCK) // as in the pager, where the checksum has touched the page: not the
			    // copy's cost
		for (uint64_t i = 0; i < size; i += BLOCK)
			sum += src[i];
	uint64_t t0 = clock_monotonic_ns();
	double c0 = cpu_of_thread();
	for (uint64_t i = 0; i < n; i++) {
		uint64_t at = (chunk == BLOCK ? order[i] : i) * chunk;
		copy(v.uffd, v.memory + at, src + at, chunk);
	}
	double ns = (cpu_of_thread() - c0) / (double)(size / BLOCK);
	if (ret_bytes_per_s)
		*ret_bytes_per_s = (double)size / ((double)(clock_monotonic_ns() - t0) / 1e9);
	munmap((void *)src, size);
	vm_free(&v);
	return sum == UINT64_MAX ? 0 : ns;
}

// --- the minimal server

static void serve_minimal(const struct vm *v, const uint8_t *src, double *ret_cpu)
{
	double c0 = cpu_of_thread();
	for (uint64_t left = size / BLOCK; left;) {
		struct pollfd p = {v->uffd, POLLIN, 0};
		struct uffd_msg msgs[64];
		poll(&p, 1, -1);
		ssize_t n = read(v->uffd, msgs, sizeof msgs);
		for (ssize_t i = 0; i < n / (ssize_t)sizeof *msgs; i++, left--) {
			uint64_t a = msgs[i].arg.pagefault.address & ~(BLOCK - 1ull);
			const uint8_t *from = src + (a - (uintptr_t)v->memory);
			(void)*(const volatile uint8_t *)from;
			copy(v->uffd, (uint8_t *)a, from, BLOCK);
		}
	}
	*ret_cpu = cpu_of_thread() - c0;
}

// In a process of its own, as the pager is; nanoseconds of CPU per block.
static double minimal_server(const char *file)
{
	struct vm v = vm_new();
	double *cpu = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pid = fork();
	if (cpu == MAP_FAILED || pid < 0)
		die("fork");
	if (pid == 0) {
		serve_minimal(&v, map_file(file), cpu);
		_exit(0);
	}
	touch(&v);
	waitpid(pid, NULL, 0);
	double ret = *cpu / (double)(size / BLOCK);
	munmap(cpu, 4096);
	vm_free(&v);
	return ret;
}

// --- the pager

static void hand_over(const struct vm *v, int *ret_socket)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path("sock"));
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	while (connect(s, (const struct sockaddr *)&sa, sizeof sa) < 0)
		clock_sleep_ns(NSEC_PER_MSEC);
	char json[200];
	int n = snprintf(json, sizeof json,
		"[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%" PRIu64
		",\"offset\":0,\"page_size\":4096}]",
		(uintptr_t)v->memory, size);
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {json, (size_t)n};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof control.buf};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &v->uffd, sizeof v->uffd);
	if (sendmsg(s, &msg, 0) != n)
		die("sendmsg");
	*ret_socket = s;
}

// Runs a server of page faults. Touches all of memory, or with a working set waits until it is all
// loaded ahead. Nanoseconds of CPU per block, of the server's whole life less that of one that
// serves nothing (base_cpu).
static double run_server(const char *const argv[], bool set, double base_cpu, double *ret_seconds)
{
	struct err e = {0};
	struct proc_spawn s = {.argv = argv, .stdin_fd = -1, .stdout_fd = -1, .stderr_fd = -1};
	pid_t pid;
	int pidfd, status, sock;
	struct rusage before, after;
	unlink(path("sock"));
	getrusage(RUSAGE_CHILDREN, &before);
	check(proc_spawn(&s, &pid, &pidfd, &e), &e);
	struct vm v = vm_new();
	hand_over(&v, &sock);
	uint64_t t0 = clock_monotonic_ns();
	(void)*(volatile uint8_t *)(v.memory + size - BLOCK); // answered: the hand-shake is done
	if (set) {
		unsigned char *present = malloc(size / BLOCK);
		do { // the last block of the set; it is loaded in ascending order
			clock_sleep_ns(NSEC_PER_MSEC);
			mincore(v.memory + size / 2 - BLOCK, BLOCK, present);
		} while (!(present[0] & 1));
		free(present);
	} else if (ret_seconds) {
		touch(&v);
	}
	if (ret_seconds)
		*ret_seconds = (double)(clock_monotonic_ns() - t0) / 1e9;
	proc_kill(pidfd, SIGTERM); // which ends our own in order, and any other
	if (proc_wait(pidfd, 10000, &status) < 0 ||
		!(status == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM))) {
		fprintf(stderr, "%s failed\n", argv[0]);
		exit(1);
	}
	getrusage(RUSAGE_CHILDREN, &after);
	close(pidfd);
	close(sock);
	vm_free(&v);
	double cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec +
			      after.ru_stime.tv_sec - before.ru_stime.tv_sec) *
			     1e9 +
		     (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec +
			      after.ru_stime.tv_usec - before.ru_stime.tv_usec) *
			     1e3;
	return (cpu - base_cpu) / (ret_seconds ? (double)(size / BLOCK) : 1);
}

static double run_pager(const char *pager, const char *header, const char *set, double base_cpu,
	double *ret_seconds, json_t **ret_stats)
{
	const char *argv[] = {pager, "--socket", path("sock"), "--header", header, "--layers",
		path("layers"), "--stats", path("stats"), set ? "--working-set" : NULL, set, NULL};
	double ret = run_server(argv, set, base_cpu, ret_seconds);
	if (ret_stats)
		*ret_stats = json_load_file(path("stats"), 0, NULL);
	return ret;
}

// As a layer is found that was read from the disk: the kernel reads it ahead in large pieces. Of
// what was just written each page stands for itself.
static void read_back(const char *file)
{
	static char buf[1 << 20];
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fdatasync(fd) < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
		die(file);
	while (read(fd, buf, sizeof buf) > 0)
		;
	close(fd);
}

static void compare_with(const char *handler, const char *pager, const char *nosums)
{
	read_back(path("flat"));
	double theirs[ROUNDS], with[ROUNDS], without[ROUNDS], seconds;
	for (int i = 0; i < ROUNDS; i++) {
		const char *argv[] = {handler, path("sock"), path("flat"), NULL};
		theirs[i] = run_server(argv, false, run_server(argv, false, 0, NULL), &seconds);
		double base = run_pager(pager, path("1.hdr"), NULL, 0, NULL, NULL);
		with[i] = run_pager(pager, path("1.hdr"), NULL, base, &seconds, NULL) / theirs[i];
		base = run_pager(nosums, path("1.hdr"), NULL, 0, NULL, NULL);
		without[i] =
			run_pager(nosums, path("1.hdr"), NULL, base, &seconds, NULL) / theirs[i];
	}
	printf("handler: CPU per 4 KiB %.0f ns; ours %.2f x, without checksums %.2f x (reach: at "
	       "most 1.15 and 1.00)\n",
		median(theirs, ROUNDS), median(with, ROUNDS), median(without, ROUNDS));
}

// --- images

static struct header *add_generation(
	const struct header *parent, int layers_fd, uint64_t *seed, bool all, bool scattered)
{
	struct err e = {0};
	struct header *child;
	char id[UUID_SIZE], image[UUID_SIZE];
	uint64_t *block = malloc(BLOCK), n = size / BLOCK;
	int fd = open(path("diff"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		die("diff");
	for (uint64_t i = 0, left = 0; i < n; i++) {
		// A generation dirties a twentieth of memory, in runs of 1 to 16 blocks.
		if (!left && scattered && rnd(seed) % 160 == 0)
			left = 1 + rnd(seed) % 16;
		if (!all && !left)
			continue;
		left -= left > 0;
		for (size_t j = 0; j < BLOCK / 8; j++)
			block[j] = rnd(seed);
		if (pwrite(fd, block, BLOCK, (off_t)(i * BLOCK)) != BLOCK)
			die("diff");
	}
	close(fd);
	free(block);
	id_new_uuid(id);
	id_new_uuid(image);
	check(layer_ingest(AT_FDCWD, path("diff"), layers_fd, id, parent, image, &child, NULL, &e),
		&e);
	return child;
}

static void make_images(void)
{
	struct err e = {0};
	struct header *h, *next;
	char image[UUID_SIZE];
	uint64_t seed = 88172645463325252ull;
	struct working_set w;
	struct strbuf b = {0};
	if (mkdir(path("layers"), 0700) < 0)
		die("layers");
	int layers_fd = open(path("layers"), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	id_new_uuid(image);
	check(header_new_zero(size, image, &h, &e), &e);
	next = add_generation(h, layers_fd, &seed, true, false);
	check(header_write(AT_FDCWD, path("1.hdr"), next, &e), &e);
	char layer[UUID_SIZE + 8];
	snprintf(layer, sizeof layer, "layers/%s", next->layers[0]);
	if (symlink(path(layer), path("flat")) < 0)
		die("flat");
	working_set_init(&w, next); // the first half, in the order of the faults
	for (uint64_t i = 0; i < size / BLOCK; i++)
		if (order[i] < size / BLOCK / 2)
			working_set_add(&w, (uint64_t)order[i] * BLOCK, 1);
	working_set_encode(&w, &b);
	check(file_write_atomic(AT_FDCWD, path("set"), b.data, b.len, 0600), &e);
	working_set_done(&w);
	strbuf_done(&b);
	for (int i = 1; i < 30; i++) {
		header_free(h);
		h = next;
		next = add_generation(h, layers_fd, &seed, false, true);
	}
	check(header_write(AT_FDCWD, path("30.hdr"), next, &e), &e);
	printf("image of 30 generations: %u layers, %zu mappings\n", next->n_layers, next->n_maps);
	header_free(h);
	header_free(next);
	close(layers_fd);
}

int main(int argc, char **argv)
{
	uint64_t mib = 256;
	if (argc < 2 || (argc > 2 && str_to_u64(argv[2], 4096, &mib) < 0)) {
		fprintf(stderr, "usage: %s PAGER [MIB [HANDLER NOSUMS]]\n", argv[0]);
		return 2;
	}
	const char *pager = argv[1];
	size = mib << 20;
	if (!mkdtemp(dir))
		die(dir);
	uint64_t seed = 12345, n = size / BLOCK;
	order = malloc(n * sizeof *order);
	for (uint64_t i = 0; i < n; i++)
		order[i] = (uint32_t)i;
	for (uint64_t i = n - 1; i > 0; i--) {
		uint64_t j = rnd(&seed) % (i + 1);
		uint32_t t = order[i];
		order[i] = order[j];
		order[j] = t;
	}
	make_images();
	if (argc == 5) {
		compare_with(argv[3], pager, argv[4]);
		free(order);
		file_rm_rf(AT_FDCWD, dir);
		return 0;
	}

	double bare[ROUNDS], minimal[ROUNDS], ours30[ROUNDS], ours[ROUNDS], bulk[ROUNDS],
		ahead[ROUNDS], one[ROUNDS], thirty[ROUNDS];
	json_t *stats = NULL;
	for (int i = 0; i < ROUNDS; i++) {
		json_t *s = NULL;
		double base = run_pager(pager, path("1.hdr"), NULL, 0, NULL, NULL);
		double base30 = run_pager(pager, path("30.hdr"), NULL, 0, NULL, NULL);
		bare[i] = bare_copy(path("flat"), BLOCK, NULL);
		minimal[i] = minimal_server(path("flat"));
		json_decref(stats);
		ours[i] = run_pager(pager, path("1.hdr"), NULL, base, &one[i], &stats);
		ours30[i] = run_pager(pager, path("30.hdr"), NULL, base30, &thirty[i], NULL);
		bare_copy(path("flat"), 64 * 1024, &bulk[i]);
		double seconds;
		run_pager(pager, path("1.hdr"), path("set"), 0, &seconds, &s);
		ahead[i] = (double)json_integer_value(json_object_get(s, "prefetch_pages")) *
			   BLOCK /
			   ((double)json_integer_value(json_object_get(s, "prefetch_us")) / 1e6);
		json_decref(s);
	}
	double each[ROUNDS]; // pairs: what slows the machine slows both
	for (int i = 0; i < ROUNDS; i++)
		each[i] = ahead[i] / bulk[i];
	double b = median(bare, ROUNDS), m = median(minimal, ROUNDS), o = median(ours, ROUNDS);
	double o30 = median(ours30, ROUNDS);
	printf("fault: CPU per 4 KiB: stasis-pager %.0f ns (30 generations: %.0f ns), minimal "
	       "server %.0f ns, "
	       "bare UFFDIO_COPY %.0f ns\n",
		o, o30, m, b);
	printf("fault: beyond the minimal server %.0f ns: %.0f %% of it, %.0f %% of the bare "
	       "UFFDIO_COPY\n",
		o - m, (o - m) / m * 100, (o - m) / b * 100);
	double k = median(bulk, ROUNDS), a = median(ahead, ROUNDS);
	printf("prefetch: %.0f MB/s, bare 64 KiB UFFDIO_COPY %.0f MB/s: %.0f %% (median of the "
	       "pairs)\n",
		a / 1e6, k / 1e6, median(each, ROUNDS) * 100);
	double t1 = median(one, ROUNDS), t30 = median(thirty, ROUNDS);
	printf("generations: all of %" PRIu64
	       " MiB touched in %.3f s after 1, %.3f s after 30: %+.1f %%\n",
		mib, t1, t30, (t30 - t1) / t1 * 100);
	char *text = json_dumps(json_object_get(stats, "latency_us"), 0);
	printf("latency: faults answered within 1, 2, 4, ... us after they were read: %s\n", text);
	free(text);
	json_decref(stats);
	free(order);
	file_rm_rf(AT_FDCWD, dir);
	return 0;
}
