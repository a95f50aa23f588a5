/* A binary heap of connections by due time; index 0 is unused, so that it can mean "no timer". */
#include "truth_engine.h"

#include <stdlib.h>

static struct connection **heap;
static size_t count, room;

static void put(size_t at, struct connection *c)
{
    heap[at] = c;
    c->timer = at;
}

static void sift(size_t at)
{
    struct connection *c = heap[at];
    while (at > 1 && heap[at / 2]->due_ns > c->due_ns) {
        put(at, heap[at / 2]);
        at /= 2;
    }
    for (size_t child; (child = 2 * at) <= count; at = child) {
        if (child < count && heap[child + 1]->due_ns < heap[child]->due_ns)
            child++;
        if (heap[child]->due_ns >= c->due_ns)
            break;
        put(at, heap[child]);
    }
    put(at, c);
}

void timer_set(struct connection *c, int64_t due_ns)
{
    c->due_ns = due_ns;
    if (!c->timer) {
        if (++count >= room) {
            room = room ? 2 * room : 1024;
            heap = realloc(heap, room * sizeof *heap);
            if (!heap)
                abort();
        }
        put(count, c);
    }
    sift(c->timer);
}

void timer_clear(struct connection *c)
{
    size_t at = c->timer;
    if (!at)
        return;
    struct connection *last = heap[count--];
    c->timer = 0;
    if (last != c) {
        put(at, last);
        sift(at);
    }
}

struct connection *timer_first(void)
{
    return count ? heap[1] : NULL;
}
