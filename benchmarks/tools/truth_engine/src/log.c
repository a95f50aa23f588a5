/*
 * What was really written, an answer at a time: a fixed head, then the time of each content chunk's write.
 * All times are CLOCK_MONOTONIC nanoseconds. log.py reads it.
 */
#include "truth_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COMPLETE = 1, STREAMED = 2, KERNEL_STAMPED = 4 };

struct head {
    char magic[4];
    uint32_t flags;
    uint32_t chunks;
    uint32_t text_bytes;
    int64_t received_ns, first_due_ns, done_ns, worst_late_ns;
    char request_id[REQUEST_ID_BYTES];
};

static FILE *file;

void log_open(void)
{
    if (!options.log_path)
        return;
    file = fopen(options.log_path, "wb");
    if (!file) {
        perror(options.log_path);
        exit(2);
    }
    setvbuf(file, NULL, _IOFBF, 1 << 16);
}

void log_answer(const struct connection *c, bool complete)
{
    if (!file)
        return;
    struct head head = {
        .magic = "TRTH",
        .flags = (complete ? COMPLETE : 0) | (c->request.stream ? STREAMED : 0) | (c->stamped ? KERNEL_STAMPED : 0),
        .chunks = c->written,
        .text_bytes = (uint32_t)c->text_bytes,
        .received_ns = c->received_ns,
        .first_due_ns = c->first_due_ns,
        .done_ns = c->done_ns,
        .worst_late_ns = c->worst_late_ns,
    };
    memcpy(head.request_id, c->request.id, sizeof head.request_id);
    fwrite(&head, sizeof head, 1, file);
    fwrite(c->writes_ns, sizeof *c->writes_ns, c->written, file);
}

void log_close(void)
{
    if (file && fclose(file) != 0) {
        perror(options.log_path);
        exit(2);
    }
    file = NULL;
}
