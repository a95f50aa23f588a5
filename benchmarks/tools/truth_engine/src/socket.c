/* Reading with the kernel's stamp of arrival, and writing what the client accepts; TLS through OpenSSL where it was built in. */
#define _GNU_SOURCE
#include "truth_engine.h"

#include <errno.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *context;
#endif

#define READ_BYTES 65536

static int64_t ns_of(const struct timespec *t)
{
    return t->tv_sec * NS_PER_S + t->tv_nsec;
}

int64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return ns_of(&t);
}

void socket_prepare(void)
{
    if (!options.tls_cert)
        return;
#ifdef WITH_TLS
    context = SSL_CTX_new(TLS_server_method());
    if (!context || SSL_CTX_use_certificate_chain_file(context, options.tls_cert) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, options.tls_key, SSL_FILETYPE_PEM) != 1) {
        ERR_print_errors_fp(stderr);
        exit(2);
    }
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
#else
    fprintf(stderr, "built without OpenSSL: install its headers (libssl-dev) for https\n");
    exit(2);
#endif
}

bool socket_open(struct connection *c)
{
    int one = 1, stamps = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE;
    if (!options.nagle)
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof stamps);
#ifdef WITH_TLS
    if (context) {
        SSL *tls = SSL_new(context);
        if (!tls || SSL_set_fd(tls, c->fd) != 1)
            return false;
        SSL_set_accept_state(tls);
        c->tls = (struct tls *)tls;
    }
#endif
    return true;
}

/* Turns the kernel's stamp, which is of the clock that can be set, into CLOCK_MONOTONIC. */
static void note_arrival(struct connection *c, struct msghdr *message)
{
    c->received_ns = monotonic_ns();
    c->stamped = false;
    for (struct cmsghdr *m = CMSG_FIRSTHDR(message); m; m = CMSG_NXTHDR(message, m)) {
        if (m->cmsg_level != SOL_SOCKET || m->cmsg_type != SO_TIMESTAMPING)
            continue;
        struct timespec arrival, now;
        memcpy(&arrival, CMSG_DATA(m), sizeof arrival);
        if (!arrival.tv_sec)
            continue;
        clock_gettime(CLOCK_REALTIME, &now);
        c->received_ns -= ns_of(&now) - ns_of(&arrival);
        c->stamped = true;
    }
}

static ssize_t receive(struct connection *c, char *bytes, size_t n)
{
#ifdef WITH_TLS
    if (c->tls) {
        int got = SSL_read((SSL *)c->tls, bytes, (int)n);
        c->received_ns = monotonic_ns();
        if (got > 0)
            return got;
        int why = SSL_get_error((SSL *)c->tls, got);
        ERR_clear_error();
        errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
        return -1;
    }
#endif
    char control[128];
    struct iovec part = {bytes, n};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(c->fd, &message, 0);
    if (got > 0)
        note_arrival(c, &message);
    return got;
}

bool socket_read(struct connection *c)
{
    static char bytes[READ_BYTES];
    for (;;) {
        ssize_t got = receive(c, bytes, sizeof bytes);
        if (got > 0)
            buffer_add(&c->in, bytes, (size_t)got);
        else if (got < 0 && errno == EINTR)
            continue;
        else
            return got < 0 && errno == EAGAIN;
        if ((size_t)got < sizeof bytes && !c->tls)
            return true;
    }
}

static ssize_t transmit(struct connection *c, const char *bytes, size_t n)
{
#ifdef WITH_TLS
    if (c->tls) {
        int sent = SSL_write((SSL *)c->tls, bytes, (int)(n < 1 << 30 ? n : 1 << 30));
        if (sent > 0)
            return sent;
        int why = SSL_get_error((SSL *)c->tls, sent);
        ERR_clear_error();
        errno = why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
        return -1;
    }
#endif
    return send(c->fd, bytes, n, MSG_NOSIGNAL);
}

bool socket_write(struct connection *c)
{
    struct buffer *out = &c->out;
    while (out->start < out->used) {
        ssize_t sent = transmit(c, out->bytes + out->start, out->used - out->start);
        if (sent < 0) {
            c->wants_write = errno == EAGAIN;
            return c->wants_write;
        }
        out->start += (size_t)sent;
    }
    c->wants_write = false;
    buffer_clear(out);
    return true;
}

bool socket_write_pieces(struct connection *c, unsigned pieces)
{
    struct buffer *out = &c->out;
    size_t each = (out->used - out->start) / pieces;
    for (unsigned piece = 1; piece < pieces && each; piece++) {
        size_t until = out->start + each;
        while (out->start < until) {
            ssize_t sent = transmit(c, out->bytes + out->start, until - out->start);
            if (sent < 0)
                return socket_write(c);
            out->start += (size_t)sent;
        }
    }
    return socket_write(c);
}

void socket_close(struct connection *c)
{
#ifdef WITH_TLS
    if (c->tls)
        SSL_free((SSL *)c->tls);
#endif
    close(c->fd);
}
