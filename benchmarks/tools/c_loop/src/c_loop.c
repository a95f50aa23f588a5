/* A client that only reads: what every client that reads each token must pay. Parses nothing but an answer's end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 1024
#define READ_BYTES 65536
#define NS_PER_MS 1000000L
#define NS_PER_S 1000000000L
#define OK_LINE "HTTP/1.1 200 "
#define ANSWER_END "\r\n0\r\n\r\n" /* HTTP's last chunk */
#define END_BYTES (sizeof ANSWER_END - 1)

struct stream {
    int fd;
    uint64_t reads; /* of the answer in progress */
    size_t kept;
    char tail[END_BYTES]; /* the answer's last bytes so far: its end may come in two reads */
    int64_t arrived_ns;   /* the kernel's stamp of the last read */
};

static uint64_t wanted, sent, completed, reads;
static char *request;
static size_t request_bytes;

static void stop(const char *what)
{
    perror(what);
    exit(1);
}

static void compose(const char *host, const char *port, const char *model, const char *tokens, int words)
{
    char *body;
    size_t body_bytes;
    FILE *text = open_memstream(&body, &body_bytes);
    fprintf(text, "{\"model\":\"%s\",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_tokens\":%s,"
                  "\"messages\":[{\"role\":\"user\",\"content\":\"Prompt:", model, tokens);
    while (words-- > 0)
        fputs(" word", text);
    fputs("\"}]}", text);
    fclose(text);
    FILE *whole = open_memstream(&request, &request_bytes);
    fprintf(whole, "POST /v1/chat/completions HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\n"
                   "Content-Length: %zu\r\n\r\n%s", host, port, body_bytes, body);
    fclose(whole);
    free(body);
}

static void ask(struct stream *s)
{
    if (sent == wanted)
        return;
    sent++;
    s->reads = s->kept = 0;
    if (send(s->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes)
        stop("send");
}

static void note_arrival(struct stream *s, struct msghdr *message)
{
    for (struct cmsghdr *m = CMSG_FIRSTHDR(message); m; m = CMSG_NXTHDR(message, m)) {
        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SO_TIMESTAMPING)
            continue;
        struct timespec arrival;
        memcpy(&arrival, CMSG_DATA(m), sizeof arrival);
        s->arrived_ns = arrival.tv_sec * NS_PER_S + arrival.tv_nsec;
    }
}

/* Keeps the answer's last bytes, and returns whether they are its end. */
static bool ends(struct stream *s, const char *bytes, size_t n)
{
    if (n >= END_BYTES) {
        memcpy(s->tail, bytes + n - END_BYTES, s->kept = END_BYTES);
    } else {
        size_t keep = s->kept + n > END_BYTES ? END_BYTES - n : s->kept;
        memmove(s->tail, s->tail + s->kept - keep, keep);
        memcpy(s->tail + keep, bytes, n);
        s->kept = keep + n;
    }
    return s->kept == END_BYTES && memcmp(s->tail, ANSWER_END, END_BYTES) == 0;
}

static void read_once(struct stream *s)
{
    static char bytes[READ_BYTES];
    char control[128];
    struct iovec part = {bytes, sizeof bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t n = recvmsg(s->fd, &message, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        fprintf(stderr, "the engine closed a connection\n");
        exit(1);
    }
    reads++;
    note_arrival(s, &message);
    if (s->reads++ == 0 && ((size_t)n < sizeof OK_LINE - 1 || memcmp(bytes, OK_LINE, sizeof OK_LINE - 1) != 0)) {
        fprintf(stderr, "not answered with 200: %.*s\n", (int)n, bytes);
        exit(1);
    }
    if (ends(s, bytes, (size_t)n)) {
        completed++;
        ask(s);
    }
}

static void connect_stream(struct stream *s, const struct sockaddr_in *engine, int epoll)
{
    int one = 1, stamps = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->fd < 0 || connect(s->fd, (const struct sockaddr *)engine, sizeof *engine))
        stop("connect");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (setsockopt(s->fd, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof stamps))
        stop("SO_TIMESTAMPING");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &event);
    ask(s);
}

/* Sleeps until the next look is due. */
static void rest(struct timespec *next, long look_ns)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    do {
        next->tv_nsec += look_ns;
        next->tv_sec += next->tv_nsec / NS_PER_S;
        next->tv_nsec %= NS_PER_S;
    } while (next->tv_sec < now.tv_sec || (next->tv_sec == now.tv_sec && next->tv_nsec < now.tv_nsec));
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, next, NULL);
}

int main(int argc, char **argv)
{
    if (argc != 9) {
        fprintf(stderr, "usage: c-loop HOST PORT MODEL TOKENS PROMPT_WORDS STREAMS REQUESTS LOOK_MS\n");
        return 2;
    }
    size_t streams = strtoul(argv[6], NULL, 10);
    long look_ns = strtol(argv[8], NULL, 10) * NS_PER_MS; /* 0: at each arrival */
    wanted = strtoull(argv[7], NULL, 10);
    compose(argv[1], argv[2], argv[3], argv[4], atoi(argv[5]));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in engine = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &engine.sin_addr) != 1)
        stop("HOST is no numeric address");
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct stream *all = calloc(streams, sizeof *all);
    for (size_t i = 0; i < streams; i++)
        connect_stream(&all[i], &engine, epoll);
    struct epoll_event events[EVENTS];
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    while (completed < wanted) {
        if (look_ns)
            rest(&next, look_ns);
        int n;
        do {
            n = epoll_wait(epoll, events, EVENTS, look_ns ? 0 : -1);
            for (int i = 0; i < n; i++)
                read_once(events[i].data.ptr);
        } while (n == EVENTS && look_ns);
    }
    printf("{\"completed\": %lu, \"reads\": %lu}\n", completed, reads);
    return 0;
}
