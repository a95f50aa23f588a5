/* Answers as vLLM words them: role chunk, content chunks, finish chunk, usage, [DONE]. */
#include "truth_engine.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const words[] = {" the", " capital", " of", " a", " model", " is", " to", " answer", ",", " and"};
#define WORDS (sizeof words / sizeof *words)
#define CREATED 1795390602
#define CHAT "/v1/chat/completions"
#define COMPLETION "/v1/completions" /* without chat: a prompt, and text instead of deltas */

/* What stands around a content chunk's text. */
struct words_around {
    const char *before, *after;
};
static const struct words_around in_chat = {
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
    "\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n\r\n",
};
static const struct words_around in_completion = {
    "\"choices\":[{\"index\":0,\"text\":\"",
    "\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null}]}\n\n\r\n",
};

static uint64_t answers;

static int64_t spread(int64_t width_ns)
{
    return width_ns ? (int64_t)(random_bits() % (uint64_t)(2 * width_ns + 1)) - width_ns : 0;
}

/* Adds an event as one HTTP chunk. */
static void add_event(struct connection *c, const char *format, const char *text)
{
    char event[640];
    int n = snprintf(event, sizeof event, format, text);
    buffer_printf(&c->out, "%x\r\n", (unsigned)n + (unsigned)c->prefix_bytes);
    buffer_add(&c->out, c->prefix, c->prefix_bytes);
    buffer_add(&c->out, event, (size_t)n);
    buffer_add(&c->out, "\r\n", 2);
}

/* Adds a word, repeated up to text_bytes, but at least once. */
static void add_words(struct buffer *b, const char *word, size_t text_bytes)
{
    size_t length = strlen(word), before = b->used;
    do
        buffer_add(b, word, length);
    while (b->used - before + length <= text_bytes);
}

static void add_text(struct connection *c)
{
    const struct words_around *around = c->chat ? &in_chat : &in_completion;
    size_t before = strlen(around->before), after = strlen(around->after);
    const char *word = words[(c->answer + c->written) % WORDS];
    size_t length = strlen(word), repeats = c->text_bytes / length;
    size_t text_bytes = length * (repeats ? repeats : 1);
    buffer_printf(&c->out, "%zx\r\n", c->prefix_bytes + before + text_bytes + after - 2); /* the last CR LF is HTTP's */
    buffer_add(&c->out, c->prefix, c->prefix_bytes);
    buffer_add(&c->out, around->before, before);
    add_words(&c->out, word, text_bytes);
    buffer_add(&c->out, around->after, after);
}

static void add_head_and_role(struct connection *c)
{
    buffer_printf(&c->out, "HTTP/1.1 200 OK\r\nserver: truth-engine\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                           "transfer-encoding: chunked\r\n%s\r\n",
                  options.close ? "connection: close\r\n" : "");
    if (c->chat)
        add_event(c, "\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"%s\"},\"logprobs\":null,"
                     "\"finish_reason\":null}],\"prompt_token_ids\":null,\"prompt_text\":null}\n\n", "");
}

static void add_end(struct connection *c)
{
    char usage[128];
    snprintf(usage, sizeof usage, "{\"prompt_tokens\":%zu,\"total_tokens\":%zu,\"completion_tokens\":%u}",
             c->request.body_bytes / 5, c->request.body_bytes / 5 + c->written, c->written);
    add_event(c, c->chat ? "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":null,\"finish_reason\":\"%s\","
                           "\"stop_reason\":null,\"token_ids\":null}]}\n\n"
                         : "\"choices\":[{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"%s\",\"stop_reason\":null}]}\n\n",
              "length");
    if (c->request.include_usage)
        add_event(c, "\"choices\":[],\"usage\":%s}\n\n", usage);
    buffer_printf(&c->out, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static void add_json(struct connection *c, const char *status, const char *body)
{
    buffer_printf(&c->out, "HTTP/1.1 %s\r\nserver: truth-engine\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                  status, strlen(body), body);
}

/* Answers everything but a completion, at once. */
static void answer_question(struct connection *c)
{
    char body[256];
    const char *path = c->request.path;
    if (c->request.broken) {
        add_json(c, "411 Length Required", "{\"error\":{\"message\":\"a Content-Length is needed\"}}");
        c->closing = true;
    } else if (strcmp(path, "/v1/models") == 0) {
        snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":%d,"
                 "\"owned_by\":\"truth-engine\",\"max_model_len\":262144}]}", options.model, CREATED);
        add_json(c, "200 OK", body);
    } else if (strcmp(path, "/version") == 0) {
        add_json(c, "200 OK", "{\"version\":\"1\",\"engine\":\"truth engine, simulated\"}");
    } else if (strcmp(path, "/health") == 0) {
        add_json(c, "200 OK", "");
    } else {
        add_json(c, "404 Not Found", "{\"error\":{\"message\":\"no such path\"}}");
    }
    answer_end(c, true);
}

void answer_begin(struct connection *c)
{
    c->answering = true;
    c->chat = strcmp(c->request.path, CHAT) == 0;
    bool completion = c->request.stream && strcmp(c->request.path, COMPLETION) == 0;
    if (c->request.broken || c->request.get || !(c->chat || completion)) {
        answer_question(c);
        return;
    }
    c->answer = ++answers;
    c->written = 0;
    c->worst_late_ns = 0;
    c->text_bytes = options.large_first && c->answer > options.large_first ? 0 : options.chunk_bytes;
    c->prefix_bytes = (size_t)snprintf(
        c->prefix, sizeof c->prefix,
        "data: {\"id\":\"%s-%016" PRIx64 "\",\"object\":\"%s\",\"created\":%d,\"model\":\"%.64s\",",
        c->chat ? "chatcmpl" : "cmpl", c->answer, c->chat ? "chat.completion.chunk" : "text_completion", CREATED, options.model);
    if (c->room < options.tokens) {
        c->room = options.tokens;
        c->writes_ns = realloc(c->writes_ns, c->room * sizeof *c->writes_ns);
        if (!c->writes_ns)
            abort();
    }
    int64_t whole_ns = c->request.stream ? 0 : (options.tokens - 1) * options.gap_ns;
    c->first_due_ns = c->received_ns + options.ttft_ns + spread(options.ttft_spread_ns) + whole_ns;
    timer_set(c, c->first_due_ns);
}

static void note_write(struct connection *c)
{
    int64_t now_ns = monotonic_ns();
    if (now_ns - c->due_ns > c->worst_late_ns)
        c->worst_late_ns = now_ns - c->due_ns;
    c->writes_ns[c->written++] = now_ns;
}

static void answer_whole(struct connection *c)
{
    struct buffer body = {0};
    buffer_printf(&body, "{\"id\":\"chatcmpl-%016" PRIx64 "\",\"object\":\"chat.completion\",\"created\":%d,\"model\":\"%s\","
                  "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"", c->answer, CREATED, options.model);
    for (uint32_t i = 0; i < options.tokens; i++)
        add_words(&body, words[i % WORDS], c->text_bytes);
    buffer_printf(&body, "\"},\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu,"
                  "\"completion_tokens\":%u}}", c->request.body_bytes / 5, c->request.body_bytes / 5 + options.tokens, options.tokens);
    note_write(c);
    add_json(c, "200 OK", body.bytes);
    free(body.bytes);
    socket_write(c);
    c->done_ns = monotonic_ns();
    answer_end(c, true);
}

void answer_continue(struct connection *c)
{
    if (!c->request.stream) {
        answer_whole(c);
        return;
    }
    if (c->written == 0) { /* vLLM sends the role once the first token is there */
        add_head_and_role(c);
        socket_write(c);
    }
    unsigned together = options.burst < options.tokens - c->written ? options.burst : options.tokens - c->written;
    while (together--) {
        add_text(c);
        note_write(c);
    }
    socket_write_pieces(c, options.pieces);
    if (c->written < options.tokens) {
        timer_set(c, c->first_due_ns + c->written * options.gap_ns + spread(options.jitter_ns));
        return;
    }
    add_end(c);
    c->done_ns = monotonic_ns();
    socket_write(c);
    c->closing = options.close;
    answer_end(c, true);
}

void answer_end(struct connection *c, bool complete)
{
    timer_clear(c);
    if (c->answer)
        log_answer(c, complete);
    c->answer = 0;
    c->answering = false;
    struct buffer *in = &c->in;
    size_t taken = c->request.head_bytes + c->request.body_bytes;
    if (taken >= in->used)
        buffer_clear(in);
    else {
        memmove(in->bytes, in->bytes + taken, in->used - taken);
        in->used -= taken;
    }
    c->request = (struct request){0};
}
