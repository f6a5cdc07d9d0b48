// The upstream: `rig serve`, see rig.c.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "rig.h"

typedef struct Stream {
    int fd, left;  // left: events still to send, 0: no stream under way
    uint64_t due_ns;
    struct Pace *pace;
    Buffer in;
    struct Stream *before, *after;  // in order of due_ns: the interval is the same for all of one pace, so new ones go last
} Conn;

typedef struct Pace {
    int events;
    uint64_t interval_ns;
    Conn *first, *last;
} Pace;

static struct {
    int epoll, timer;
    long served, aborted, finished;
    Pace usual, slow;  // slow: of the model of that name
} srv;

static void unlink_stream(Conn *c) {
    *(c->before ? &c->before->after : &c->pace->first) = c->after;
    *(c->after ? &c->after->before : &c->pace->last) = c->before;
    c->before = c->after = NULL;
}

static void link_last(Conn *c) {
    Pace *p = c->pace;
    c->before = p->last;
    *(p->last ? &p->last->after : &p->first) = c;
    p->last = c;
}

static void drop(Conn *c) {
    if (c->left) {
        srv.aborted++;
        unlink_stream(c);
    }
    close(c->fd);
    free(c->in.data);
    free(c);
}

static bool say(Conn *c, const char *data, size_t len) {
    return send(c->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static bool say_json(Conn *c, const char *body) {
    char out[2048];
    int n = snprintf(out, sizeof out,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    return say(c, out, (size_t)n);
}

static const char *ANSWER =
    "{\"id\":\"chatcmpl-rig\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"rig\",\"choices\":[{\"index\":0,"
    "\"message\":{\"role\":\"assistant\",\"content\":\"An answer of some thirty tokens, which is about what a short question gets "
    "from a small model that was told to be brief and to the point.\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
    "\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":30,\"total_tokens\":42}}";

// The next event of a stream, as one chunk; the last one ends the answer. False: the reader is gone or has fallen behind.
static bool say_event(Conn *c) {
    char event[512], out[640];
    const char *head = "data: {\"id\":\"chatcmpl-rig\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"rig\"";
    int n, m;
    if (--c->left)
        n = snprintf(event, sizeof event, "%s,\"sent_ns\":%llu,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n",
                     head, (unsigned long long)now_ns());
    else
        n = snprintf(event, sizeof event, "%s,\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,"
                     "\"completion_tokens\":%d,\"total_tokens\":%d}}\n\ndata: [DONE]\n\n", head, c->pace->events, c->pace->events + 12);
    m = snprintf(out, sizeof out, "%x\r\n%s\r\n%s", n, event, c->left ? "" : "0\r\n\r\n");
    return say(c, out, (size_t)m);
}

static bool answer(Conn *c, const char *request, size_t head_len, size_t len) {
    char text[160];
    if (!strncmp(request, "GET /stats", 10)) {
        snprintf(text, sizeof text, "{\"served\":%ld,\"finished\":%ld,\"aborted\":%ld}", srv.served, srv.finished, srv.aborted);
        return say_json(c, text);
    }
    if (!strncmp(request, "GET /v1/models", 14)) return say_json(c, "{\"object\":\"list\",\"data\":[{\"id\":\"rig\",\"object\":\"model\",\"created\":1,\"owned_by\":\"rig\"}]}");
    if (!strncmp(request, "GET ", 4)) return say_json(c, "{\"status\":\"ok\"}");
    srv.served++;
    const char *body = request + head_len;
    size_t n = len - head_len;
    if (!memmem(body, n, "\"stream\":true", 13) && !memmem(body, n, "\"stream\": true", 14)) {
        srv.finished++;
        return say_json(c, ANSWER);
    }
    const char *head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";
    bool slow = memmem(body, n, "\"model\":\"slow\"", 14) || memmem(body, n, "\"model\": \"slow\"", 15);
    c->pace = slow ? &srv.slow : &srv.usual;
    c->left = c->pace->events;
    c->due_ns = now_ns() + c->pace->interval_ns;
    link_last(c);
    return say(c, head, strlen(head));
}

// The length of the first request in `in`, head and body; 0: not all of it is there.
static size_t whole_request(const Buffer *in, size_t *head_len) {
    const char *end = in->len ? memmem(in->data, in->len, "\r\n\r\n", 4) : NULL;
    if (!end) return 0;
    *head_len = (size_t)(end - in->data) + 4;
    const char *length = field(in->data, *head_len, "\r\ncontent-length:");
    size_t total = *head_len + (length ? strtoul(length, NULL, 10) : 0);
    if (field(in->data, *head_len, "\r\ntransfer-encoding:")) {  // chunked; our bodies hold no line "0"
        const char *last = memmem(end, in->len - (size_t)(end - in->data), "\r\n0\r\n\r\n", 7);
        total = last ? (size_t)(last - in->data) + 7 : SIZE_MAX;
    }
    return total <= in->len ? total : 0;
}

static void serve_readable(Conn *c) {
    ssize_t got = receive(c->fd, &c->in);
    bool alive = got != 0;
    size_t len, head_len;
    while (got > 0 && alive && !c->left && (len = whole_request(&c->in, &head_len))) {
        alive = answer(c, c->in.data, head_len, len);
        consume(&c->in, len);
    }
    if (!alive) drop(c);
}

static void send_due(Pace *p, uint64_t now) {
    while (p->first && p->first->due_ns <= now) {
        Conn *c = p->first;
        unlink_stream(c);
        if (!say_event(c)) {
            srv.aborted++;
            c->left = 0;
            shutdown(c->fd, SHUT_RDWR);  // freed when epoll reports it
        } else if (c->left) {
            c->due_ns += p->interval_ns;
            link_last(c);
        } else
            srv.finished++;
    }
}

static void send_due_events(void) {
    uint64_t now = now_ns(), due = UINT64_MAX;
    send_due(&srv.usual, now);
    send_due(&srv.slow, now);
    if (srv.usual.first) due = srv.usual.first->due_ns;
    if (srv.slow.first && srv.slow.first->due_ns < due) due = srv.slow.first->due_ns;
    struct itimerspec at = {0};
    if (due != UINT64_MAX) at.it_value = (struct timespec){(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
    timerfd_settime(srv.timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
        no_delay(fd);
        Conn *c = calloc(1, sizeof *c);
        if (!c) die("memory");
        c->fd = fd;
        watch(srv.epoll, fd, c);
    }
}

// One step of an engine's life, for those who measure swaps. Wall clock, as the gateway's journal has it.
static void note(const char *what) {
    const char *path = getenv("RIG_LOG");
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    if (fd < 0) return;
    uint64_t at = clock_ns(CLOCK_REALTIME);
    dprintf(fd, "{\"pid\":%d,\"what\":\"%s\",\"at_s\":%llu.%09llu}\n", getpid(), what, (unsigned long long)(at / 1000000000u), (unsigned long long)(at % 1000000000u));
    close(fd);
}

static int listen_on(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    return fd;
}

int serve(int port, int events, long interval_us) {
    sigset_t term;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    sigprocmask(SIG_BLOCK, &term, NULL);
    note("started");
    size_t ballast = (size_t)setting("RIG_BALLAST_MIB") << 20;
    char *held = malloc(ballast + 1);
    if (!held) die("memory");
    memset(held, 1, ballast);
    usleep((useconds_t)setting("RIG_BOOT_MS") * 1000);
    srv.usual = (Pace){.events = events, .interval_ns = (uint64_t)interval_us * 1000};
    srv.slow = (Pace){.events = getenv("RIG_SLOW_EVENTS") ? (int)setting("RIG_SLOW_EVENTS") : events,
                      .interval_ns = getenv("RIG_SLOW_US") ? (uint64_t)setting("RIG_SLOW_US") * 1000 : srv.usual.interval_ns};
    srv.epoll = epoll_create1(EPOLL_CLOEXEC);
    srv.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int listener = listen_on(port), ending = signalfd(-1, &term, SFD_CLOEXEC);
    watch(srv.epoll, listener, &listener);
    watch(srv.epoll, srv.timer, &srv.timer);
    watch(srv.epoll, ending, &ending);
    note("ready");
    for (struct epoll_event found[BATCH];;) {
        int n = epoll_wait(srv.epoll, found, BATCH, -1);
        for (int i = 0; i < n; i++) {
            void *tag = found[i].data.ptr;
            if (tag == &ending) {
                note("asked");
                usleep((useconds_t)setting("RIG_STOP_MS") * 1000);
                note("ended");
                return 0;
            }
            if (tag == &listener) accept_all(listener);
            else if (tag != &srv.timer) serve_readable(tag);
        }
        send_due_events();
    }
}
