// rig: an OpenAI-like upstream and a closed-loop load, to measure what stands between them. Linux; one thread, epoll.
//
//   rig serve PORT EVENTS INTERVAL_US
//       POST anything: a chat completion; with "stream":true EVENTS server-sent events, one each INTERVAL_US, every one
//       with the time it was written. GET /health, /v1/models, /stats.
//   rig load HOST PORT PATH CONNECTIONS SECONDS unary|stream MODEL [BODY_BYTES]
//       Each connection asks, waits for the whole answer, asks again. Prints one line of JSON. A kept connection that
//       is closed before a byte of the next answer came is opened anew and counted in "reconnects", not in "errors".
//
// Environment: RIG_CPU pins to a core · RIG_KEY is the load's bearer key, RIG_FIELDS more header fields (lines that end with
// CRLF) · RIG_SLOW_EVENTS and RIG_SLOW_US: the pace of the model "slow" · for `serve` as an engine under residency:
// RIG_BOOT_MS and RIG_STOP_MS before it listens and after SIGTERM, RIG_BALLAST_MIB of memory really touched, RIG_LOG a
// file that gets a line of JSON for each step of its life.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rig.h"

enum { READ_BYTES = 65536 };

// ------------------------------------------------------------------ common to both

uint64_t clock_ns(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

void die(const char *what) {
    fprintf(stderr, "rig: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void reserve(Buffer *b, size_t more) {
    if (b->len + more + 1 <= b->cap) return;
    while (b->cap < b->len + more + 1) b->cap = b->cap ? b->cap * 2 : 1024;
    b->data = realloc(b->data, b->cap);
    if (!b->data) die("memory");
}

void append(Buffer *b, const char *data, size_t len) {
    reserve(b, len);
    memcpy(b->data + b->len, data, len);
    b->len += len;
}

void consume(Buffer *b, size_t len) {
    b->len -= len;
    memmove(b->data, b->data + len, b->len);
}

// One read through a buffer all connections share, so that an idle one holds none. >0: bytes, 0: closed, <0: not now.
ssize_t receive(int fd, Buffer *into) {
    static char piece[READ_BYTES];
    ssize_t got = recv(fd, piece, sizeof piece, MSG_DONTWAIT);
    if (got > 0) append(into, piece, (size_t)got);
    if (got < 0 && errno != EAGAIN && errno != EINTR) return 0;
    return got;
}

// The value of a header field in `head`, NULL where it is absent. `name` is given as "\r\nname:".
const char *field(const char *head, size_t len, const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i + n <= len; i++)
        if (head[i] == '\r' && !strncasecmp(head + i, name, n)) {
            const char *value = head + i + n;
            while (*value == ' ' || *value == '\t') value++;
            return value;
        }
    return NULL;
}

void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void watch(int epoll, int fd, void *tag) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = tag};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e)) die("epoll_ctl");
}

long setting(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : 0;
}

// ------------------------------------------------------------------ load

typedef struct {
    uint64_t *values;
    size_t len, cap;
} Samples;

static void record(Samples *s, uint64_t value) {
    if (s->len == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 4096;
        s->values = realloc(s->values, s->cap * sizeof *s->values);
        if (!s->values) die("memory");
    }
    s->values[s->len++] = value;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_us(Samples *s, double share) {
    return s->len ? (double)s->values[(size_t)((double)(s->len - 1) * share)] / 1000.0 : 0.0;
}

typedef enum { HEAD, SIZED, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, UNTIL_CLOSE } Part;

typedef struct {
    int fd, status;
    Part part;
    size_t rest;  // of a sized body or a chunk
    bool last_one, first_event, said_done, touched;  // touched: a byte of this answer has come
    long answers;  // on this connection
    uint64_t asked_ns;
    Buffer in, text;  // raw bytes; a stream's text after its last whole event
} Client;

static struct {
    struct sockaddr_in address;
    bool stream;
    int epoll, shown;
    Buffer request;
    Samples latency, delay, first;
    long requests, events, errors, refused, reconnects;
} ld;

static void ask(Client *c) {
    c->part = HEAD;
    c->first_event = c->said_done = c->touched = c->last_one = false;
    c->text.len = 0;
    c->asked_ns = now_ns();
    // Blocking, so that a long body goes out whole. A failure shows as a closed connection.
    send(c->fd, ld.request.data, ld.request.len, MSG_NOSIGNAL);
}

static void open_connection(Client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&ld.address, sizeof ld.address)) die("connect");
    no_delay(c->fd);
    c->answers = 0;
    c->in.len = 0;
    watch(ld.epoll, c->fd, c);
    ask(c);
}

static void take_text(Client *c, const char *data, size_t len, uint64_t now) {
    if (!ld.stream) return;
    append(&c->text, data, len);
    char *at = c->text.data, *end = at + c->text.len, *stop;
    for (; (stop = memmem(at, (size_t)(end - at), "\n\n", 2)); at = stop + 2) {
        *stop = 0;
        if (strncmp(at, "data: ", 6)) continue;  // a comment
        char *sent = strstr(at, "\"sent_ns\":");
        if (sent) record(&ld.delay, now - strtoull(sent + 10, NULL, 10));
        if (!c->first_event) record(&ld.first, now - c->asked_ns);
        c->first_event = true;
        c->said_done = !strcmp(at + 6, "[DONE]");
        if (!c->said_done) ld.events++;
    }
    consume(&c->text, (size_t)(at - c->text.data));
}

static void take_head(Client *c, size_t len) {
    const char *head = c->in.data, *value;
    c->status = len > 12 ? atoi(head + 9) : 0;
    value = field(head, len, "\r\nconnection:");
    c->last_one = value && !strncasecmp(value, "close", 5);
    if (field(head, len, "\r\ntransfer-encoding:")) c->part = CHUNK_SIZE;
    else if ((value = field(head, len, "\r\ncontent-length:"))) {
        c->part = SIZED;
        c->rest = strtoul(value, NULL, 10);
    } else c->part = UNTIL_CLOSE;
    if (c->status != 200 && ld.shown++ < 2) fprintf(stderr, "rig: %.*s\n", (int)(c->in.len < 600 ? c->in.len : 600), head);
}

static void answered(Client *c, uint64_t now) {
    ld.requests++;
    c->answers++;
    if (c->status != 200) ld.refused++;
    else if (ld.stream && !c->said_done) ld.errors++;
    else record(&ld.latency, now - c->asked_ns);
}

// Reads what has come as far as it goes. True: the answer is whole.
static bool parse(Client *c, uint64_t now) {
    size_t at = 0;
    bool whole = false;
    while (!whole && at < c->in.len) {
        char *from = c->in.data + at;
        size_t have = c->in.len - at, used;
        if (c->part == SIZED || c->part == CHUNK || c->part == UNTIL_CLOSE) {
            used = c->part == UNTIL_CLOSE || have < c->rest ? have : c->rest;
            take_text(c, from, used, now);
            at += used;
            c->rest -= c->part == UNTIL_CLOSE ? 0 : used;
            if (!c->rest && c->part == CHUNK) c->part = CHUNK_END;
        } else {
            const char *mark = c->part == HEAD ? "\r\n\r\n" : "\r\n";
            char *end = memmem(from, have, mark, strlen(mark));
            if (!end) break;
            used = (size_t)(end - from) + strlen(mark);
            if (c->part == HEAD) take_head(c, used);
            else if (c->part == CHUNK_SIZE) c->part = (c->rest = strtoul(from, NULL, 16)) ? CHUNK : TRAILER;
            else if (c->part == CHUNK_END) c->part = CHUNK_SIZE;
            else whole = used == 2;  // TRAILER: an empty line ends it
            at += used;
        }
        whole = whole || (c->part == SIZED && !c->rest);
    }
    consume(&c->in, at);
    return whole;
}

static void load_readable(Client *c) {
    ssize_t got = receive(c->fd, &c->in);
    if (got < 0) return;
    uint64_t now = now_ns();
    if (got > 0) {
        c->touched = true;
        if (!parse(c, now)) return;
        answered(c, now);
        if (!c->last_one) {
            ask(c);
            return;
        }
        ld.reconnects++;
    } else if (c->touched && c->part == UNTIL_CLOSE) answered(c, now);
    else if (c->answers && !c->touched) ld.reconnects++;  // closed while idle: nobody's fault
    else ld.errors++;
    close(c->fd);
    open_connection(c);
}

static void write_request(const char *host, int port, const char *path, const char *model, size_t body_bytes) {
    const char *key = getenv("RIG_KEY"), *fields = getenv("RIG_FIELDS");
    char *filler = calloc(1, body_bytes + 1), *body, *head;
    if (!filler) die("memory");
    memset(filler, 'x', body_bytes);
    int n = asprintf(&body, "{\"model\":\"%s\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello there %s\"}]%s}", model, filler, ld.stream ? ",\"stream\":true" : "");
    int m = asprintf(&head, "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
                     "User-Agent: OpenAI/Python 2.0.0\r\nAuthorization: Bearer %s\r\n%sContent-Length: %d\r\n\r\n",
                     path, host, port, key ? key : "none", fields ? fields : "", n);
    append(&ld.request, head, (size_t)m);
    append(&ld.request, body, (size_t)n);
}

static int load(const char *host, int port, int connections, double seconds) {
    ld.epoll = epoll_create1(EPOLL_CLOEXEC);
    ld.address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, host, &ld.address.sin_addr) != 1) die("HOST must be an IPv4 address");
    Client *clients = calloc((size_t)connections, sizeof *clients);
    for (int i = 0; i < connections; i++) {
        open_connection(&clients[i]);
        if (ld.stream) usleep(150);  // streams of real callers do not beat in step
    }
    uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), warm = begin + (uint64_t)(seconds * 0.15e9), counted = 0;
    long requests = 0, events = 0;
    struct epoll_event found[BATCH];
    for (uint64_t now = begin; now < end; now = now_ns()) {
        if (!counted && now >= warm) {
            counted = now;
            requests = ld.requests, events = ld.events;
            ld.latency.len = ld.delay.len = ld.first.len = 0;
        }
        int n = epoll_wait(ld.epoll, found, BATCH, 20);
        for (int i = 0; i < n; i++) load_readable(found[i].data.ptr);
    }
    double counted_s = (double)(now_ns() - counted) / 1e9;
    Samples *all[] = {&ld.latency, &ld.delay, &ld.first};
    for (int i = 0; i < 3; i++)
        if (all[i]->len) qsort(all[i]->values, all[i]->len, sizeof(uint64_t), ascending);
    printf("{\"connections\":%d,\"seconds\":%.3f,\"requests_per_s\":%.1f,\"events_per_s\":%.1f,\"requests\":%ld,\"events\":%ld,"
           "\"errors\":%ld,\"non_200\":%ld,\"reconnects\":%ld,\"latency_us\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f},"
           "\"delay_us\":{\"p50\":%.1f,\"p99\":%.1f},\"first_event_us\":{\"p50\":%.1f,\"p99\":%.1f}}\n",
           connections, counted_s, (double)(ld.requests - requests) / counted_s, (double)(ld.events - events) / counted_s,
           ld.requests, ld.events, ld.errors, ld.refused, ld.reconnects, percentile_us(&ld.latency, .5),
           percentile_us(&ld.latency, .9), percentile_us(&ld.latency, .99), percentile_us(&ld.delay, .5),
           percentile_us(&ld.delay, .99), percentile_us(&ld.first, .5), percentile_us(&ld.first, .99));
    return 0;
}

int main(int n, char **arg) {
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (getenv("RIG_CPU")) {
        cpu_set_t core;
        CPU_ZERO(&core);
        CPU_SET((size_t)setting("RIG_CPU"), &core);
        if (sched_setaffinity(0, sizeof core, &core)) die("RIG_CPU");
    }
    if (n == 5 && !strcmp(arg[1], "serve")) return serve(atoi(arg[2]), atoi(arg[3]), atol(arg[4]));
    if (n >= 9 && !strcmp(arg[1], "load")) {
        ld.stream = !strcmp(arg[7], "stream");
        write_request(arg[2], atoi(arg[3]), arg[4], arg[8], n > 9 ? strtoul(arg[9], NULL, 10) : 0);
        return load(arg[2], atoi(arg[3]), atoi(arg[5]), atof(arg[6]));
    }
    fputs("rig serve PORT EVENTS INTERVAL_US\nrig load HOST PORT PATH CONNECTIONS SECONDS unary|stream MODEL [BODY_BYTES]\n", stderr);
    return 2;
}
