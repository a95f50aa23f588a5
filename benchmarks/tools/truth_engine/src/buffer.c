#include "truth_engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SMALL 65536

static char *reserve(struct buffer *b, size_t n)
{
    if (b->used + n > b->room) {
        b->room = (b->used + n) * 2;
        b->bytes = realloc(b->bytes, b->room);
        if (!b->bytes)
            abort();
    }
    return b->bytes + b->used;
}

void buffer_add(struct buffer *b, const void *bytes, size_t n)
{
    memcpy(reserve(b, n), bytes, n);
    b->used += n;
}

void buffer_printf(struct buffer *b, const char *format, ...)
{
    va_list list, again;
    va_start(list, format);
    va_copy(again, list);
    int n = vsnprintf(NULL, 0, format, list);
    vsnprintf(reserve(b, (size_t)n + 1), (size_t)n + 1, format, again);
    b->used += (size_t)n;
    va_end(again);
    va_end(list);
}

void buffer_clear(struct buffer *b)
{
    b->used = b->start = 0;
    if (b->room > SMALL) {
        free(b->bytes);
        *b = (struct buffer){0};
    }
}
