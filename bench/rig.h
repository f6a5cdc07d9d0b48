// What serve and load share.
#ifndef RIG_H
#define RIG_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

enum { BATCH = 256 };  // events taken from epoll at once

typedef struct {
    char *data;
    size_t len, cap;
} Buffer;

void append(Buffer *b, const char *data, size_t len);
void consume(Buffer *b, size_t len);
ssize_t receive(int fd, Buffer *into);
const char *field(const char *head, size_t len, const char *name);
uint64_t clock_ns(clockid_t id);
uint64_t now_ns(void);
void no_delay(int fd);
void watch(int epoll, int fd, void *tag);
long setting(const char *name);
void die(const char *what);

int serve(int port, int events, long interval_us);
#endif
