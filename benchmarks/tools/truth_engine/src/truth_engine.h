/* An inference engine without a model: it writes every chunk at a scheduled time, and logs when it did. */
#ifndef TRUTH_ENGINE_H
#define TRUTH_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REQUEST_ID_BYTES 96
#define NS_PER_S 1000000000LL

struct options {
    const char *host; /* the numeric address to listen on */
    int port;
    const char *model;
    const char *log_path;
    const char *tls_cert, *tls_key; /* NULL: plain HTTP */
    int64_t ttft_ns, ttft_spread_ns, gap_ns, jitter_ns;
    uint32_t tokens;
    size_t chunk_bytes;   /* text in a content chunk; 0: a short word */
    uint64_t large_first; /* number of answers with chunk_bytes of text; 0: all */
    int cpu;              /* -1: any */
    bool nagle;           /* without TCP_NODELAY: a small write waits until the last one is acknowledged */
    unsigned pieces;      /* writes for each content chunk */
    unsigned burst;       /* content chunks that are written together */
    bool close;           /* a connection for each answer */
};
extern struct options options;

struct buffer {
    char *bytes;
    size_t used, room, start;
};
void buffer_add(struct buffer *b, const void *bytes, size_t n);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buffer_clear(struct buffer *b); /* gives large memory back */

struct request {
    bool complete, broken;
    bool get;
    char path[64];
    char id[REQUEST_ID_BYTES];
    size_t head_bytes, body_bytes;
    bool stream, include_usage;
};

/* A client's connection and the answer it is being given. */
struct connection {
    int fd;
    size_t timer; /* index among the timers, 0: none */
    int64_t due_ns;
    struct tls *tls;
    struct buffer in, out;
    bool wants_write, closing, stamped;
    int64_t received_ns; /* arrival of the last bytes read */

    bool answering;
    struct request request;
    bool chat; /* else a completion without chat */
    int64_t first_due_ns, done_ns;
    int64_t worst_late_ns;
    uint64_t answer;
    uint32_t written, room;
    int64_t *writes_ns; /* when each content chunk was written */
    size_t text_bytes;
    char prefix[256];
    size_t prefix_bytes;
};

int64_t monotonic_ns(void);
uint64_t random_bits(void);

/* Timers: the connection that is due next. */
void timer_set(struct connection *c, int64_t due_ns);
void timer_clear(struct connection *c);
struct connection *timer_first(void);

/* The socket: plain or TLS. */
void socket_prepare(void);
bool socket_open(struct connection *c);
bool socket_read(struct connection *c);  /* false: the client is gone */
bool socket_write(struct connection *c); /* sends what it can of `out`; false: the client is gone */
bool socket_write_pieces(struct connection *c, unsigned pieces); /* the same in this many writes */
void socket_close(struct connection *c);

bool request_read(struct connection *c); /* whether a whole request lies in `in` */

void answer_begin(struct connection *c);
void answer_continue(struct connection *c); /* writes what is due */
void answer_end(struct connection *c, bool complete);

void log_open(void);
void log_answer(const struct connection *c, bool complete);
void log_close(void);

#endif
