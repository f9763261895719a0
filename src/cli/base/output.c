// SPDX-License-Identifier: Apache-2.0
#include "cli/base/output.h"
#include <locale.h>
#include <stdarg.h>
#include <string.h>
#include <wchar.h>
#include "base/clock.h"
#include "base/str.h"

// Control characters of texts of outside (C0, DEL, and C1 as UTF-8) would be the terminal's orders.
static void clean(char *text)
{
	char *to = text;
	for (const unsigned char *s = (const unsigned char *)text; *s; s++) {
		bool c1 = s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0x9f; // U+0080 to U+009F
		*to++ = c1 || *s < ' ' || *s == 127 ? '?' : (char)*s;
		s += c1;
	}
	*to = '\0';
}

void output_complain(const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	if (text)
		clean(text);
	fprintf(stderr, "stasis: %s\n", text ? text : "out of memory");
}

void output_request_id(const char *id)
{
	if (id[0])
		fprintf(stderr, "stasis: request id %s\n", id);
}

static void add_cell(struct table *t, char *text)
{
	if (t->n == t->cap && text) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		char **p = reallocarray(t->cells, cap, sizeof *p);
		if (p) {
			t->cells = p;
			t->cap = cap;
		}
	}
	if (!text || t->n == t->cap) {
		t->failed = true;
		free(text);
		return;
	}
	clean(text);
	t->cells[t->n++] = text;
}

void table_init(struct table *t, const char *const *titles)
{
	*t = (struct table){0};
	for (; titles[t->columns] && t->columns < TABLE_MAX_COLUMNS; t->columns++)
		add_cell(t, strdup(titles[t->columns]));
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	add_cell(t, n < 0 ? NULL : text);
}

// Columns of a terminal: a wide character has two, a combining one none. locale is one of UTF-8, or
// 0: then each character counts as one.
static size_t width_of(const char *s, locale_t locale)
{
	size_t width = 0, n = strlen(s);
	mbstate_t state = {0};
	locale_t before = locale ? uselocale(locale) : 0;
	while (n > 0) {
		wchar_t c;
		size_t len = locale ? mbrtowc(&c, s, n, &state) : 0;
		bool known = len > 0 && len <= n;
		if (!known) {
			state = (mbstate_t){0};
			len = 1;
		}
		int columns = known ? wcwidth(c) : ((unsigned char)*s & 0xc0) != 0x80;
		width += columns < 0 ? 1 : (size_t)columns;
		s += len;
		n -= len;
	}
	if (locale)
		uselocale(before);
	return width;
}

bool output_colored(FILE *out)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
	return !(no && *no) && term && *term && strcmp(term, "dumb") != 0 &&
	       isatty(fileno(out)) == 1;
}

const char *output_state_color(const char *state)
{
	static const char green[] = "\033[32m", yellow[] = "\033[33m", red[] = "\033[31m",
			  cyan[] = "\033[36m", dim[] = "\033[2m";
	static const struct {
		const char *word, *color;
	} colors[] = {
		// of sandboxes
		{"running", green},
		{"paused", cyan},
		{"stopped", dim},
		{"pending", yellow},
		{"pausing", yellow},
		{"resuming", yellow},
		{"stopping", yellow},
		{"unreachable", red},
		{"error", red},
		// of operations and checks
		{"done", green},
		{"open", yellow},
		{"failed", red},
		{"ok", green},
		{"degraded", yellow},
		{"missing", red},
		// of events, beside the states
		{"resumed", green},
		{"events_lost", red},
	};
	size_t n = strcspn(state, ":");
	if (str_ends(state, "_failed"))
		return red;
	for (size_t i = 0; i < ARRAY_SIZE(colors); i++)
		if (strlen(colors[i].word) == n && strncmp(colors[i].word, state, n) == 0)
			return colors[i].color;
	return NULL;
}

int table_print(struct table *t, FILE *out)
{
	size_t width[TABLE_MAX_COLUMNS] = {0}, first = t->no_headers ? t->columns : 0;
	bool colored = t->states && output_colored(out);
	if (t->failed)
		return -ENOMEM;
	locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
	for (size_t i = first; i < t->n; i++)
		width[i % t->columns] = MAX(width[i % t->columns], width_of(t->cells[i], utf8));
	for (size_t i = first; i < t->n; i++) {
		size_t column = i % t->columns;
		const char *color = colored && column == t->states && i >= t->columns
					    ? output_state_color(t->cells[i])
					    : NULL;
		fprintf(out, "%s%s%s", color ? color : "", t->cells[i],
			color ? OUTPUT_COLOR_END : "");
		if (column == t->columns - 1)
			fputc('\n', out);
		else
			fprintf(out, "%*s", (int)(width[column] - width_of(t->cells[i], utf8) + 2),
				"");
	}
	if (utf8)
		freelocale(utf8);
	return fflush(out) == 0 ? 0 : -errno;
}

void table_done(struct table *t)
{
	for (size_t i = 0; i < t->n; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct table){0};
}

void human_size(uint64_t bytes, char out[24])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	size_t u = 0;
	double v = (double)bytes;
	for (; v >= 1024 && u + 1 < ARRAY_SIZE(units); u++)
		v /= 1024;
	if (bytes == 0)
		snprintf(out, 24, "-");
	else
		snprintf(out, 24, v < 10 && u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

void human_span(uint64_t s, char out[24])
{
	typedef unsigned long long ull;
	ull minutes = s / 60 + (s % 60 >= 30), hours = s / 3600 + (s % 3600 >= 1800);
	if (s < 60)
		snprintf(out, 24, "%llus", (ull)s);
	else if (minutes < 60)
		snprintf(out, 24, "%llum", minutes);
	else if (minutes < 1440)
		snprintf(out, 24, "%lluh %llum", minutes / 60, minutes % 60);
	else
		snprintf(out, 24, "%llud %lluh", hours / 24, hours % 24);
}

void human_when(const json_t *time, char out[32])
{
	uint64_t at, now = clock_realtime_ns();
	const char *text = json_string_value(time);
	char span[24];
	if (!text || clock_parse_rfc3339(text, &at) < 0) {
		snprintf(out, 32, "%s", "-");
		return;
	}
	human_span(((now > at ? now - at : at - now) + NSEC_PER_SEC / 2) / NSEC_PER_SEC, span);
	snprintf(out, 32, now > at ? "%s ago" : "in %s", span);
}

void human_ms(uint64_t us, char out[24])
{
	if (us < 1000000)
		snprintf(out, 24, "%.2f ms", (double)us / 1e3);
	else
		snprintf(out, 24, "%.2f s", (double)us / 1e6);
}

int output_phases(const json_t *phases, FILE *out)
{
	_cleanup_table_ struct table t;
	const json_t *p;
	size_t i;
	json_int_t total = 0;
	char time[24];
	table_init(&t, (const char *const[]){"PHASE", "TIME", NULL});
	json_array_foreach (phases, i, p) {
		const char *name = json_string_value(json_object_get(p, "name"));
		json_int_t us = json_integer_value(json_object_get(p, "us"));
		human_ms((uint64_t)us, time);
		total += us;
		table_cell(&t, "%s", name ? name : "-");
		table_cell(&t, "%s", time);
	}
	human_ms((uint64_t)total, time);
	table_cell(&t, "total");
	table_cell(&t, "%s", time);
	return table_print(&t, out);
}

char *output_value(const json_t *v)
{
	char *text;
	if (!v || json_is_null(v))
		text = strdup("-");
	else if (json_is_string(v))
		text = strdup(json_string_value(v));
	else
		text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
	if (text)
		clean(text);
	return text;
}

static int print_field(const char *name, const json_t *v)
{
	if (!v || json_is_null(v))
		return 0;
	_cleanup_free_ char *text = output_value(v);
	if (!text)
		return -ENOMEM;
	const char *color = strcmp(name, "state") == 0 && output_colored(stdout)
				    ? output_state_color(text)
				    : NULL;
	printf("%-16s %s%s%s\n", name, color ? color : "", text, color ? OUTPUT_COLOR_END : "");
	return 0;
}

int output_fields(const json_t *object, const char *const *names)
{
	const char *name;
	const json_t *v;
	int rc = 0;
	for (size_t i = 0; names && names[i] && rc == 0; i++)
		rc = print_field(names[i], json_object_get(object, names[i]));
	if (!names)
		json_object_foreach ((json_t *)object, name, v)
			if (rc == 0)
				rc = print_field(name, v);
	return rc;
}

int output_flush(void)
{
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : -(errno ? errno : EIO);
}

int output_json(const json_t *j)
{
	_cleanup_free_ char *text = json_dumps(j, JSON_INDENT(2) | JSON_ENCODE_ANY);
	if (!text)
		return -ENOMEM;
	puts(text);
	return output_flush();
}

void progress_start(struct progress *p, const char *what)
{
	*p = (struct progress){
		.on = isatty(STDERR_FILENO) == 1, .started_ns = clock_monotonic_ns(), .what = what};
}

int progress_tick(void *ctx)
{
	static const char frames[] = "|/-\\";
	struct progress *p = ctx;
	uint64_t now = clock_monotonic_ns();
	if (!p->on || now - p->drawn_ns < 80 * NSEC_PER_MSEC)
		return 0;
	p->drawn_ns = now;
	char amount[96] = "", done[24], total[24];
	if (p->bytes) {
		human_size(p->done, done);
		human_size(p->total, total);
		if (p->total)
			snprintf(amount, sizeof amount, " %s of %s (%.0f %%)", done, total,
				100.0 * (double)p->done / (double)p->total);
		else
			snprintf(amount, sizeof amount, " %s", done);
	}
	fprintf(stderr, "\r\033[K%c %s%s %.1f s", frames[p->frame++ % 4], p->what, amount,
		(double)(now - p->started_ns) / 1e9);
	return 0;
}

void progress_clear(struct progress *p)
{
	if (p->on && p->drawn_ns)
		fputs("\r\033[K", stderr);
	p->on = false;
}
