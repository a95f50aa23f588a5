/* Requests as clients of an OpenAI-compatible engine send them. */
#define _GNU_SOURCE
#include "truth_engine.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Returns the value of a header within the head, or NULL. */
static const char *header(const char *head, const char *end, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = head; line && line < end;) {
        if ((size_t)(end - line) > length && line[length] == ':' && strncasecmp(line, name, length) == 0) {
            line += length + 1;
            while (line < end && (*line == ' ' || *line == '\t'))
                line++;
            return line;
        }
        line = memchr(line, '\n', (size_t)(end - line));
        if (line)
            line++;
    }
    return NULL;
}

/* Whether the body sets a key to true. Inside a string every quote is escaped, so a prompt cannot pretend to. */
static bool set_true(const char *body, size_t n, const char *key)
{
    size_t length = strlen(key);
    for (const char *at = body, *end = body + n; (at = memmem(at, (size_t)(end - at), key, length));) {
        at += length;
        const char *value = at;
        while (value < end && (isspace((unsigned char)*value) || *value == ':'))
            value++;
        if (value > at && end - value >= 4 && memcmp(value, "true", 4) == 0)
            return true;
    }
    return false;
}

static void read_head(struct request *r, const char *head, size_t n)
{
    const char *end = head + n, *path = memchr(head, ' ', n);
    r->get = n >= 4 && memcmp(head, "GET ", 4) == 0;
    if (path) {
        path++;
        size_t length = strcspn(path, " ?\r\n");
        if (length >= sizeof r->path)
            length = sizeof r->path - 1;
        memcpy(r->path, path, length);
    }
    const char *bytes = header(head, end, "content-length"), *id = header(head, end, "x-request-id");
    r->body_bytes = bytes ? strtoul(bytes, NULL, 10) : 0;
    if (id) {
        size_t length = strcspn(id, "\r\n");
        memcpy(r->id, id, length < sizeof r->id ? length : sizeof r->id - 1);
    }
    r->broken = !path || header(head, end, "transfer-encoding");
}

bool request_read(struct connection *c)
{
    struct buffer *in = &c->in;
    struct request *r = &c->request;
    if (!r->head_bytes) {
        const char *end = in->used ? memmem(in->bytes, in->used, "\r\n\r\n", 4) : NULL;
        if (!end)
            return false;
        *r = (struct request){.head_bytes = (size_t)(end - in->bytes) + 4};
        read_head(r, in->bytes, r->head_bytes);
        if (r->body_bytes && header(in->bytes, end, "expect"))
            buffer_printf(&c->out, "HTTP/1.1 100 Continue\r\n\r\n");
    }
    if (!r->broken && in->used < r->head_bytes + r->body_bytes)
        return false;
    const char *body = in->bytes + r->head_bytes;
    r->stream = set_true(body, r->body_bytes, "\"stream\"");
    r->include_usage = set_true(body, r->body_bytes, "\"include_usage\"");
    r->complete = true;
    return true;
}
