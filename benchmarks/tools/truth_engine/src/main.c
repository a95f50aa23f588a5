/* The loop: first write what is due, then read what has arrived. */
#define _GNU_SOURCE
#include "truth_engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 32 /* few, so that reading never delays a write for long */
#define WAKE_EARLY_NS 80000 /* the kernel wakes late by some 50 us: wake before, and spin the rest */

struct options options = {
    .host = "127.0.0.1", .port = 8000, .pieces = 1, .burst = 1, .model = "truth", .ttft_ns = 50000000, .gap_ns = 10000000, .tokens = 128, .cpu = -1,
};
static volatile sig_atomic_t ending;
static int epoll, listener;
static uint64_t connections, streams, max_streams;
static int64_t spun_ns; /* CPU time of waiting without sleep: none of it is work */

uint64_t random_bits(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15;
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

static void watch(struct connection *c, int how)
{
    struct epoll_event event = {.events = EPOLLIN | (c->wants_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, how, c->fd, &event);
}

static void drop(struct connection *c)
{
    if (c->answering) {
        c->done_ns = monotonic_ns();
        answer_end(c, false);
        streams--;
    }
    socket_close(c);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c->writes_ns);
    free(c);
}

static void accept_all(void)
{
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->fd = fd;
        connections++;
        if (socket_open(c))
            watch(c, EPOLL_CTL_ADD);
        else
            drop(c);
    }
}

/* Runs a step that may write, then handles unsent bytes and the next request. */
static void step(struct connection *c, void (*go)(struct connection *))
{
    bool wanted = c->wants_write, was_answering = c->answering;
    go(c);
    while (!c->answering && !c->closing && request_read(c))
        answer_begin(c);
    if (c->out.used && !c->wants_write)
        socket_write(c);
    streams += (uint64_t)c->answering - (uint64_t)was_answering;
    if (streams > max_streams)
        max_streams = streams;
    if (c->closing && !c->wants_write)
        drop(c);
    else if (wanted != c->wants_write)
        watch(c, EPOLL_CTL_MOD);
}

static void nothing(struct connection *c)
{
    (void)c;
}

static void flush_out(struct connection *c)
{
    socket_write(c);
}

static void write_due(void)
{
    for (struct connection *c; (c = timer_first()) && c->due_ns <= monotonic_ns();)
        step(c, answer_continue);
}

static void serve(const struct epoll_event *event)
{
    struct connection *c = event->data.ptr;
    if (!c) {
        accept_all();
        return;
    }
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        if (!socket_read(c)) {
            drop(c);
            return;
        }
        step(c, nothing);
    } else {
        step(c, flush_out);
    }
}

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* Looks for arrivals without sleeping until a write is due; returns how many came. */
static int spin(struct epoll_event *events, int64_t due_ns)
{
    int64_t began_ns = cpu_ns();
    int n;
    do
        n = epoll_wait(epoll, events, EVENTS, 0);
    while (!n && !ending && monotonic_ns() < due_ns);
    spun_ns += cpu_ns() - began_ns;
    return n;
}

static int await(struct epoll_event *events)
{
    const struct connection *next = timer_first();
    int64_t wait_ns = next ? next->due_ns - monotonic_ns() - WAKE_EARLY_NS : 100000000;
    if (wait_ns <= 0)
        return spin(events, next->due_ns);
    struct timespec timeout = {.tv_sec = wait_ns / NS_PER_S, .tv_nsec = wait_ns % NS_PER_S};
    return epoll_pwait2(epoll, events, EVENTS, &timeout, NULL);
}

static void loop(void)
{
    struct epoll_event events[EVENTS];
    while (!ending) {
        write_due();
        int n = await(events);
        write_due();
        for (int i = 0; i < n; i++)
            serve(&events[i]);
    }
}

static void listen_on_port(void)
{
    int one = 1;
    char port[16];
    snprintf(port, sizeof port, "%d", options.port);
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV}, *found;
    int problem = getaddrinfo(options.host, port, &wanted, &found);
    if (problem) {
        fprintf(stderr, "%s, port %s: %s\n", options.host, port, gai_strerror(problem));
        exit(2);
    }
    listener = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, found->ai_addr, found->ai_addrlen) || listen(listener, 8192)) {
        fprintf(stderr, "%s, port %d: %s\n", options.host, options.port, strerror(errno));
        exit(2);
    }
    freeaddrinfo(found);
    struct sockaddr_in6 address; /* the port is in the same place in both families' addresses */
    socklen_t length = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &length);
    options.port = ntohs(address.sin6_port);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
}

static void prepare_process(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (options.cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(options.cpu, &cpus);
        if (sched_setaffinity(0, sizeof cpus, &cpus))
            perror("sched_setaffinity");
    }
}

static void end(int signal)
{
    (void)signal;
    ending = 1;
}

static int64_t ns_of_ms(const char *text)
{
    return (int64_t)(strtod(text, NULL) * 1e6);
}

static void read_options(int argc, char **argv)
{
    enum { PORT, MODEL, LOG, TTFT, SPREAD, GAP, JITTER, TOKENS, BYTES, LARGE, CPU, CERT, KEY, HOST, NAGLE, PIECES, BURST, CLOSE };
    static const struct option known[] = {
        {"port", 1, NULL, PORT},          {"model", 1, NULL, MODEL},   {"log", 1, NULL, LOG},
        {"ttft-ms", 1, NULL, TTFT},       {"gap-ms", 1, NULL, GAP},    {"ttft-spread-ms", 1, NULL, SPREAD},
        {"jitter-ms", 1, NULL, JITTER},   {"tokens", 1, NULL, TOKENS}, {"chunk-bytes", 1, NULL, BYTES},
        {"large-first", 1, NULL, LARGE},  {"cpu", 1, NULL, CPU},       {"tls-cert", 1, NULL, CERT},
        {"tls-key", 1, NULL, KEY},        {"host", 1, NULL, HOST},     {"nagle", 0, NULL, NAGLE},
        {"pieces", 1, NULL, PIECES},      {"burst", 1, NULL, BURST},   {"close", 0, NULL, CLOSE},
        {0}};
    for (int which; (which = getopt_long_only(argc, argv, "", known, NULL)) != -1;) {
        switch (which) {
        case PORT: options.port = atoi(optarg); break;
        case MODEL: options.model = optarg; break;
        case LOG: options.log_path = optarg; break;
        case TTFT: options.ttft_ns = ns_of_ms(optarg); break;
        case SPREAD: options.ttft_spread_ns = ns_of_ms(optarg); break;
        case GAP: options.gap_ns = ns_of_ms(optarg); break;
        case JITTER: options.jitter_ns = ns_of_ms(optarg); break;
        case TOKENS: options.tokens = (uint32_t)strtoul(optarg, NULL, 10); break;
        case BYTES: options.chunk_bytes = strtoul(optarg, NULL, 10); break;
        case LARGE: options.large_first = strtoull(optarg, NULL, 10); break;
        case CPU: options.cpu = atoi(optarg); break;
        case CERT: options.tls_cert = optarg; break;
        case KEY: options.tls_key = optarg; break;
        case HOST: options.host = optarg; break;
        case NAGLE: options.nagle = true; break;
        case PIECES: options.pieces = (unsigned)strtoul(optarg, NULL, 10); break;
        case BURST: options.burst = (unsigned)strtoul(optarg, NULL, 10); break;
        case CLOSE: options.close = true; break;
        default: exit(2);
        }
    }
    if (!options.tokens || !options.pieces || !options.burst || strlen(options.model) > 64 || (options.tls_cert && !options.tls_key)) {
        fprintf(stderr, "needs --tokens, --pieces and --burst of 1 or more, a --model of 64 characters or fewer, --tls-key with --tls-cert\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prepare_process();
    socket_prepare();
    log_open();
    listen_on_port();
    struct sigaction stop = {.sa_handler = end};
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);
    printf("{\"port\": %d}\n", options.port);
    fflush(stdout);
    loop();
    double cpu_s = (double)cpu_ns() / NS_PER_S;
    log_close();
    printf("{\"connections\": %lu, \"max_streams\": %lu, \"cpu_s\": %.6f, \"spun_s\": %.6f}\n", connections, max_streams, cpu_s,
           (double)spun_ns / NS_PER_S);
    return 0;
}
