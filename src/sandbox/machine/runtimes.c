// SPDX-License-Identifier: Apache-2.0
// How this works: trees are read once, at the start, into a list that only the upkeep shortens; who
// has a pointer into it holds its tree (refs.h), and what is held is not removed. The current one
// is held for good.
#include "sandbox/machine/runtimes.h"
#include <fcntl.h>
#include <string.h>
#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/paths.h"

#define ABOUT_MAX 16384u
#define STUCK_MAX 16u
#define USE_NS (3600 * NSEC_PER_SEC) // its last use is noted as often

struct runtimes {
	pthread_mutex_t lock;
	struct runtime *list; // the current one is the first
	struct runtime_rules rules;
};

// --- making

static struct runtime *about_current(const struct host *h)
{
	struct runtime *r = calloc(1, sizeof *r);
	if (!r)
		return NULL;
	r->vmm = *h->vmm;
	r->first_ns = r->last_ns = clock_realtime_ns();
	return r;
}

static int build_foreign(struct host *h, struct runtime *r, struct err *e)
{
	_cleanup_free_ char *trees = str_printf("%s/" RUNTIMES, h->data_dir);
	_cleanup_(shim_files_free) char **files = shim_qemu_files(h->vmm->qemu);
	_cleanup_free_ char *about = runtime_format(r);
	// A release's file has its version in its name.
	_cleanup_free_ char *pair = str_printf("%s=" VMM_JAIL_FIRECRACKER, h->vmm->program);
	const char *const firecracker[] = {pair, NULL};
	struct shim_files f = {.extra = (const char *const *)files};
	struct shim_tree t;
	if (!trees || !files || !about || !pair)
		return err_errno(e, ENOMEM, "runtime");
	if (h->vmm->firecracker)
		f = (struct shim_files){.extra = firecracker};
	f.about = about;
	int rc = shim_tree_build(trees, &f, &t, e);
	if (rc < 0)
		return rc;
	free(t.dir);
	memcpy(h->vmm->runtime, t.id, sizeof t.id);
	memcpy(r->vmm.runtime, t.id, sizeof t.id);
	return 0;
}

static int build_own(struct host *h, struct err *e)
{
	_cleanup_free_ char *trees = str_printf("%s/" OWN_PROGRAMS, h->data_dir);
	_cleanup_free_ char *pager = paths_find("stasis-pager");
	_cleanup_free_ char *fcqemu = paths_find("fcqemu");
	_cleanup_free_ char *hook = paths_find("ramhook.so");
	const char *const programs[] = {[OWN_PAGER] = pager, [OWN_FCQEMU] = fcqemu, NULL};
	const char *const alone[] = {hook, NULL};
	struct shim_tree t;
	if (!pager || !fcqemu || !hook)
		return err_set(e, ERR_INTERNAL, "%s not found: run make, or make install",
			!pager	  ? "stasis-pager"
			: !fcqemu ? "fcqemu"
				  : "ramhook.so");
	if (!trees)
		return err_errno(e, ENOMEM, "programs");
	int rc = shim_tree_build(
		trees, &(struct shim_files){.programs = programs, .alone = alone}, &t, e);
	if (rc < 0)
		return rc;
	h->own_dir = t.dir;
	h->own_dynamic = t.dynamic;
	return 0;
}

// --- reading

static int read_about(const struct host *h, const char *id, struct runtime *r, struct err *e)
{
	char path[sizeof RUNTIMES "//" SHIM_TREE_ABOUT + SHIM_TREE_ID_SIZE];
	_cleanup_strbuf_ struct strbuf text = {0};
	snprintf(path, sizeof path, RUNTIMES "/%s/" SHIM_TREE_ABOUT, id);
	int rc = file_read(h->data_fd, path, ABOUT_MAX, &text);
	return rc < 0 ? err_errno(e, rc, "%s", path) : runtime_parse(text.data, text.len, r, e);
}

static int write_about(const struct host *h, const struct runtime *r)
{
	char path[sizeof RUNTIMES "//" SHIM_TREE_ABOUT + SHIM_TREE_ID_SIZE];
	_cleanup_free_ char *text = runtime_format(r);
	snprintf(path, sizeof path, RUNTIMES "/%s/" SHIM_TREE_ABOUT, r->vmm.runtime);
	return text ? file_write_atomic(h->data_fd, path, text, strlen(text), 0600) : -ENOMEM;
}

// Accelerator, processor and clock are this host's, whatever runs on them.
static void fill_host(const struct host *h, struct runtime *r)
{
	const struct vmm_choice *here = h->vmm;
	r->vmm.kvm = here->kvm;
	r->vmm.tsc_khz = here->tsc_khz;
	r->vmm.cpu = here->cpu;
	r->vmm.tsc_fixed = here->tsc_fixed;
	_cleanup_free_ char *fcqemu = paths_find("fcqemu");
	snprintf(r->vmm.program, sizeof r->vmm.program, "%s", fcqemu ? fcqemu : "fcqemu");
}

static int add_kept(void *ctx, const char *id)
{
	struct host *h = ctx;
	struct err e = {0};
	if (str_eq(id, h->vmm->runtime))
		return 0;
	struct runtime *r = calloc(1, sizeof *r);
	_cleanup_free_ char *dir = str_printf("%s/" RUNTIMES "/%s", h->data_dir, id);
	if (!r || !dir) {
		free(r);
		return -ENOMEM;
	}
	fill_host(h, r);
	snprintf(r->vmm.runtime, sizeof r->vmm.runtime, "%s", id);
	int rc = read_about(h, id, r, &e);
	if (rc == -ENOENT || e.code == ERR_INVALID) {
		bool unnamed = rc == -ENOENT; // a damaged one was of today's servers
		if ((rc = runtime_look(dir, r, &e)) == 0) {
			r->unnamed = unnamed;
			write_about(h, r); // else it is asked again at the next start
		}
	}
	if (rc < 0) {
		log_warn("kept VMM cannot be used runtime=%s error=%s", id, err_text(&e, rc));
		r->vmm.name[0] = '\0'; // fits no snapshot; it stays while one names it
	}
	r->next = h->runtimes->list->next;
	h->runtimes->list->next = r;
	return 0;
}

// No shim that was started by an older server is asked: what it has is locked.
static int remove_own(void *ctx, const char *id)
{
	struct host *h = ctx;
	struct err e = {0};
	_cleanup_free_ char *trees = str_printf("%s/" OWN_PROGRAMS, h->data_dir);
	if (trees && !str_ends(h->own_dir, id))
		shim_tree_remove(trees, id, &e);
	return 0;
}

// What an earlier start knew of the current one. It is asked of dpkg once.
static void complete(struct host *h, struct runtime *r)
{
	struct runtime before = {.vmm = r->vmm};
	if (read_about(h, r->vmm.runtime, &before, NULL) == 0) {
		r->first_ns = before.first_ns;
		memcpy(r->package, before.package, sizeof r->package);
	}
	if (!r->package[0])
		runtime_package(r->vmm.firecracker ? r->vmm.program : r->vmm.qemu, r->package,
			sizeof r->package);
	write_about(h, r);
}

int runtimes_open(struct host *h, const char *floor, struct err *e)
{
	_cleanup_free_ char *kept = str_printf("%s/" RUNTIMES, h->data_dir);
	_cleanup_free_ char *own = str_printf("%s/" OWN_PROGRAMS, h->data_dir);
	h->runtimes = calloc(1, sizeof *h->runtimes);
	if (!kept || !own || !h->runtimes || !(h->runtimes->list = about_current(h)))
		return err_errno(e, ENOMEM, "runtime");
	pthread_mutex_init(&h->runtimes->lock, NULL);
	struct runtime *current = h->runtimes->list;
	int rc = runtime_rules_open(&h->runtimes->rules, h->data_fd, floor, e);
	if (rc == 0)
		rc = build_own(h, e);
	if (rc == 0)
		rc = build_foreign(h, current, e);
	if (rc == 0 && (rc = refs_hold_runtime(h->refs, current->vmm.runtime)) < 0)
		rc = err_errno(e, rc, "runtime");
	if (rc < 0)
		return rc;
	complete(h, current);
	if ((rc = shim_tree_list(own, true, remove_own, h, e)) == 0)
		rc = shim_tree_list(kept, true, add_kept, h, e);
	return rc;
}

void runtimes_close(struct host *h)
{
	struct runtimes *all = h->runtimes;
	h->runtimes = NULL;
	if (!all)
		return;
	for (struct runtime *r = all->list, *next; r; r = next) {
		next = r->next;
		free(r);
	}
	runtime_rules_done(&all->rules);
	pthread_mutex_destroy(&all->lock);
	free(all);
}

// --- who needs which

static struct runtime *find(const struct host *h, const char *id)
{
	struct runtime *r = h->runtimes ? h->runtimes->list : NULL;
	while (r && !str_eq(r->vmm.runtime, id))
		r = r->next;
	return r;
}

static bool writes_the_same(const struct vmm_choice *v, const struct snapshot_info *i)
{
	return str_eq(i->vmm_name, v->name) && str_eq(i->vmm_state, v->state);
}

const struct vmm_choice *runtime_for(const struct host *h, const struct snapshot_info *i)
{
	if (!h->runtimes)
		return h->vmm;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->runtimes->lock);
	const struct runtime *r = find(h, i->runtime);
	// In those days any VMM of the same name and state format loaded it.
	bool as_before = r && r->unnamed && writes_the_same(h->vmm, i);
	return r && r->vmm.name[0] && !as_before ? &r->vmm : h->vmm;
}

const struct vmm_choice *runtime_of(const struct host *h, const struct sandbox *s)
{
	return s->vmm ? s->vmm : h->vmm;
}

struct runtime_rules *runtimes_rules(const struct host *h)
{
	return &h->runtimes->rules;
}

bool runtime_allows(
	const struct host *h, const struct vmm_choice *v, char ret_why[RUNTIME_WHY_SIZE])
{
	return !h->runtimes || runtime_is_allowed(&h->runtimes->rules, v, ret_why);
}

int runtimes_list(struct host *h, struct runtime **ret, size_t *ret_n)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->runtimes->lock);
	size_t n = 0;
	for (const struct runtime *r = h->runtimes->list; r; r = r->next)
		n++;
	struct runtime *list = calloc(n, sizeof *list);
	if (!list)
		return -ENOMEM;
	*ret = list;
	*ret_n = n;
	for (const struct runtime *r = h->runtimes->list; r; r = r->next)
		*list++ = *r;
	return 0;
}

// Roughly, and nobody waits for the disk.
static void note_use(struct host *h, const char *id)
{
	uint64_t now = clock_realtime_ns();
	if (!h->runtimes)
		return;
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->runtimes->lock);
	struct runtime *r = find(h, id);
	if (!r || now < r->last_ns + USE_NS)
		return;
	r->last_ns = now;
	write_about(h, r);
}

int runtime_take(struct host *h, struct sandbox *s, const struct vmm_choice *v, struct err *e)
{
	int rc = refs_hold_runtime(h->refs, v->runtime);
	if (rc < 0)
		return err_errno(e, rc, "runtime");
	runtime_let_go(h, s);
	s->vmm = v;
	note_use(h, v->runtime);
	return 0;
}

void runtime_let_go(struct host *h, struct sandbox *s)
{
	const struct vmm_choice *v = s->vmm;
	s->vmm = NULL;
	if (v)
		refs_release_runtime(h->refs, v->runtime);
}

int runtime_adopt(struct host *h, struct sandbox *s, struct err *e)
{
	char dir[512], id[SHIM_TREE_ID_SIZE];
	if (host_run_path(h, s->info.id, dir) < 0)
		return err_set(e, ERR_INTERNAL, "run directory path too long");
	int rc = shim_read_tree(dir, id, e);
	const struct runtime *r = rc == 0 ? find(h, id) : NULL;
	if (r && !r->vmm.name[0])
		refs_hold_runtime(h->refs, id); // the next start may know it
	if (rc == 0 && (!r || !r->vmm.name[0]))
		rc = err_set(e, ERR_NOT_FOUND, "no runtime '%s'", id);
	return rc == 0 ? runtime_take(h, s, &r->vmm, e) : rc;
}

// --- what nobody needs

void runtimes_settled(struct host *h)
{
	for (struct runtime *r = h->runtimes->list; r; r = r->next) {
		if (refs_hold_runtime(h->refs, r->vmm.runtime) == 0)
			refs_release_runtime(h->refs, r->vmm.runtime);
	}
}

static bool is_known(struct host *h, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->runtimes->lock);
	return find(h, id) != NULL;
}

static void forget(struct host *h, const char *id)
{
	_cleanup_unlock_ pthread_mutex_t *held = mutex_lock(&h->runtimes->lock);
	struct runtime **p = &h->runtimes->list;
	while (*p && !str_eq((*p)->vmm.runtime, id))
		p = &(*p)->next;
	struct runtime *r = *p;
	if (r)
		*p = r->next;
	free(r);
}

void runtimes_collect(struct host *h)
{
	char id[UUID_SIZE], stuck[STUCK_MAX][UUID_SIZE];
	size_t n_stuck = 0;
	if (h->unread)
		return; // which ones are needed is not known
	while (n_stuck < STUCK_MAX && refs_next_runtime(h->refs, id)) {
		struct err e = {0};
		if (!is_known(h, id)) // a snapshot names what is not there
			continue;
		_cleanup_free_ char *trees = str_printf("%s/" RUNTIMES, h->data_dir);
		int rc = trees ? shim_tree_remove(trees, id, &e) : -ENOMEM;
		if (rc < 0) {
			log_debug(
				"runtime stays for now runtime=%s error=%s", id, err_text(&e, rc));
			memcpy(stuck[n_stuck++], id, UUID_SIZE);
			continue;
		}
		forget(h, id);
		log_info("runtime removed runtime=%s", id);
	}
	while (n_stuck--) { // on the list again
		refs_hold_runtime(h->refs, stuck[n_stuck]);
		refs_release_runtime(h->refs, stuck[n_stuck]);
	}
}
