// SPDX-License-Identifier: Apache-2.0
// The line is a list of tickets, each with a condition of its own: only the next one is woken.
#include "sandbox/table/gate.h"

void gate_init(struct gate *g, unsigned places)
{
	*g = (struct gate){.places = places};
	pthread_mutex_init(&g->lock, NULL);
}

void gate_done(struct gate *g)
{
	pthread_mutex_destroy(&g->lock);
}

// With the lock held, as the next two.
static void put_in_line(struct gate *g, struct gate_ticket *t)
{
	struct gate_ticket **p = &g->line;
	while (*p)
		p = &(*p)->next;
	*p = t;
	t->next = NULL;
	t->where = GATE_IN_LINE;
	pthread_cond_init(&t->turn, NULL);
}

// False when it is not in line.
static bool take_out(struct gate *g, struct gate_ticket *t, enum gate_where to)
{
	for (struct gate_ticket **p = &g->line; *p; p = &(*p)->next)
		if (*p == t) {
			*p = t->next;
			t->where = to;
			pthread_cond_signal(&t->turn);
			return true;
		}
	return false;
}

bool gate_join(struct gate *g, struct gate_ticket *t)
{
	pthread_mutex_lock(&g->lock);
	bool in = !g->closed && !g->line && g->inside < g->places;
	if (in) {
		g->inside++;
		t->where = GATE_INSIDE;
	} else {
		put_in_line(g, t);
		if (g->closed)
			take_out(g, t, GATE_SENT_AWAY);
	}
	pthread_mutex_unlock(&g->lock);
	return in;
}

int gate_wait(struct gate *g, struct gate_ticket *t, struct err *e)
{
	pthread_mutex_lock(&g->lock);
	while (t->where == GATE_IN_LINE)
		pthread_cond_wait(&t->turn, &g->lock);
	bool in = t->where == GATE_INSIDE, closed = g->closed;
	if (!in)
		t->where = GATE_AWAY;
	pthread_cond_destroy(&t->turn);
	pthread_mutex_unlock(&g->lock);
	if (in)
		return 0;
	return closed ? err_set(e, ERR_UNAVAILABLE,
				"the server is being stopped: ask again when it is back")
		      : err_set(e, ERR_CONFLICT, "removed while its start waited for its turn");
}

void gate_leave(struct gate *g, struct gate_ticket *t)
{
	pthread_mutex_lock(&g->lock);
	if (t->where == GATE_INSIDE) {
		t->where = GATE_AWAY;
		// The place goes from hand to hand.
		if (!g->line || !take_out(g, g->line, GATE_INSIDE))
			g->inside--;
	}
	pthread_mutex_unlock(&g->lock);
}

void gate_cancel(struct gate *g, struct gate_ticket *t)
{
	pthread_mutex_lock(&g->lock);
	take_out(g, t, GATE_SENT_AWAY);
	pthread_mutex_unlock(&g->lock);
}

void gate_close(struct gate *g)
{
	pthread_mutex_lock(&g->lock);
	g->closed = true;
	while (g->line)
		take_out(g, g->line, GATE_SENT_AWAY);
	pthread_mutex_unlock(&g->lock);
}

size_t gate_place(struct gate *g, const struct gate_ticket *t)
{
	size_t place = 1;
	pthread_mutex_lock(&g->lock);
	const struct gate_ticket *p = g->line;
	for (; p && p != t; p = p->next)
		place++;
	pthread_mutex_unlock(&g->lock);
	return p ? place : 0;
}

void gate_count(struct gate *g, unsigned *ret_inside, size_t *ret_in_line)
{
	pthread_mutex_lock(&g->lock);
	*ret_inside = g->inside;
	*ret_in_line = 0;
	for (const struct gate_ticket *p = g->line; p; p = p->next)
		(*ret_in_line)++;
	pthread_mutex_unlock(&g->lock);
}
