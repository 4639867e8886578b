/* A WebSocket load generator: one thread, one epoll, many connections.  bench/run.py compiles and starts it.
 *
 *     load --mode echo --port 8000 --connections 64 --in-flight 16 --size 64 --seconds 2 --cpu 1 --pids 4711
 *
 *   echo     every connection keeps some messages in flight and checks what comes back; with --burst it sends them together, when
 *            all of the last burst have come back
 *   churn    connections open, shake hands, close and end, as fast as they can
 *   idle     connections open and stay, answering pings, until standard input ends
 *   fanout   one connection publishes; all others must have received it before the next is published
 *   latency  messages leave at fixed times, whatever has come back (so a slow server cannot slow its own clock)
 *
 * It reads the CPU clocks of the server's processes (--pids) itself, at the very instants at which it starts and stops counting.
 * The result is one line of JSON on standard output; what makes a measurement void is one line {"error": ...} and status 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#define SECOND 1000000000LL
#define INPUT_SIZE (4 << 20)   /* more than the largest message */
#define HEAD_LIMIT 16384       /* of a handshake's response */
#define CONTROL_LIMIT 1024     /* control frames that wait for the end of a data frame */
#define CHECK_EVERY 1000       /* the contents of the first and of each such reply are compared */
#define CLOSE_PATIENCE SECOND  /* for the server's FIN after its Close frame */
#define ROUND_PATIENCE (10 * SECOND)
#define MAX_PIDS 256

enum state { FREE, CONNECTING, SHAKING, OPEN, CLOSING };
enum role { ECHO, PUBLISHER, READER, STALLED };
enum opcode { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

struct conn {
    int fd;
    enum state state;
    enum role role;
    bool close_seen;           /* the server's Close frame came */
    bool waits_for_output;     /* EPOLLOUT is asked for */
    size_t owed;               /* bytes of data frames that are due and not yet sent; all data frames are equal */
    size_t phase;              /* where in its frame the next of those bytes stands */
    uint8_t control[CONTROL_LIMIT];
    size_t control_length;
    uint8_t *rest;             /* the beginning of a frame, or head, whose end has not come */
    size_t rest_length, rest_size;
    uint64_t replies;
    int64_t deadline;
    int64_t *due;              /* latency: a ring of the times at which the unanswered messages were due */
    uint32_t due_first, due_count;
};

struct mode {
    void (*opened)(struct conn *);
    void (*replied)(struct conn *);
    void (*ended)(struct conn *, const char *reason);
};

static struct {
    const char *mode;
    int port, connections, in_flight, size, parallel, cpu, stalled, prime, rate;
    bool binary, deflate, burst;
    bool offer;                /* offer compression, take what comes, compress nothing */
    double seconds, warmup;
    pid_t pids[MAX_PIDS];
    int pid_count;
} option = {.mode = "echo", .connections = 64, .in_flight = 1, .size = 64, .parallel = 64, .cpu = -1, .rate = 10000, .prime = 65536,
            .seconds = 2, .warmup = 0.5};

static struct {
    struct conn *conns;
    const struct mode *mode;
    int epoll, opening, open, window_bits;
    int64_t now;
    uint64_t source, sent, replies, checked, compressed, pings;
    bool running;              /* replies are answered by further messages, ends by further connections */
    bool closing;              /* ends are no failures any more */
    uint8_t *payload, *stream; /* one message; its frame, several times */
    size_t payload_length, frame_length, stream_length;
    uint64_t failures;
    char failure[256];         /* the first */
} run;

static uint8_t input[INPUT_SIZE];

/* ---- ends and clocks ---- */

static void print_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') printf("\\%c", *text);
        else if ((unsigned char)*text < ' ') printf("\\u%04x", *text);
        else putchar(*text);
    }
    putchar('"');
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("{\"error\": ");
    print_string(text);
    printf("}\n");
    exit(1);
}

static void *allocate(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    if (!memory) die("no memory for %zu bytes", size);
    return memory;
}

static int64_t read_clock(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time)) die("clock: %s", strerror(errno));
    return time.tv_sec * SECOND + time.tv_nsec;
}

/* CPU time of the server's processes, all threads, user and system, in nanoseconds. */
static int64_t server_cpu(void)
{
    int64_t sum = 0;
    for (int i = 0; i < option.pid_count; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(option.pids[i], &clock)) die("the server's process %d is gone", (int)option.pids[i]);
        sum += read_clock(clock);
    }
    return sum;
}

/* ---- messages ---- */

/* The payload is JSON-like ASCII: valid as text, compressible as real messages are. */
static void make_payload(size_t length)
{
    free(run.payload);
    run.payload = allocate(length + 1);
    run.payload_length = length;
    size_t at = 0;
    for (unsigned i = 0; at < length; i++) {
        char item[64];
        int n = snprintf(item, sizeof item, "{\"id\":%u,\"price\":%u.%02u,\"side\":\"%s\"},", i * 7919u % 100003u,
                         i * 104729u % 997u, i * 31u % 100u, i % 3 ? "buy" : "sell");
        for (int k = 0; k < n && at < length; k++) run.payload[at++] = (uint8_t)item[k];
    }
}

/* Compress the payload once, as the extension wants it: raw, flushed, less the flush's last four bytes (RFC 7692, 7.2.1). */
static size_t pack(uint8_t **packed)
{
    z_stream z = {0};
    if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -run.window_bits, 8, Z_DEFAULT_STRATEGY) != Z_OK) die("deflateInit2");
    size_t size = deflateBound(&z, run.payload_length) + 64;
    *packed = allocate(size);
    z.next_in = run.payload, z.avail_in = (uInt)run.payload_length;
    z.next_out = *packed, z.avail_out = (uInt)size;
    if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in) die("deflate");
    size_t length = size - z.avail_out - 4;
    deflateEnd(&z);
    return length;
}

static size_t put_header(uint8_t *to, uint8_t first, size_t length)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t n = 0;
    to[n++] = first;
    if (length < 126) {
        to[n++] = 0x80 | (uint8_t)length;
    } else if (length < 65536) {
        to[n++] = 0x80 | 126;
        to[n++] = (uint8_t)(length >> 8), to[n++] = (uint8_t)length;
    } else {
        to[n++] = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8) to[n++] = (uint8_t)((uint64_t)length >> shift);
    }
    memcpy(to + n, mask, 4);
    return n + 4;
}

static size_t put_frame(uint8_t *to, uint8_t first, const uint8_t *payload, size_t length)
{
    size_t head = put_header(to, first, length);
    for (size_t i = 0; i < length; i++) to[head + i] = payload[i] ^ to[head - 4 + (i & 3)];
    return head + length;
}

/* Prepare the data frames that all connections send: one message, masked, repeated so that one write can carry many. */
static void make_stream(size_t size, int copies)
{
    make_payload(size);
    uint8_t *body = run.payload;
    size_t length = size;
    uint8_t first = 0x80 | (option.binary ? BINARY : TEXT);
    if (option.deflate) length = pack(&body), first |= 0x40;
    free(run.stream);
    run.stream = allocate((length + 14) * (size_t)copies);
    run.frame_length = put_frame(run.stream, first, body, length);
    run.stream_length = run.frame_length * (size_t)copies;
    for (int i = 1; i < copies; i++) memcpy(run.stream + run.frame_length * (size_t)i, run.stream, run.frame_length);
    if (body != run.payload) free(body);
}

static bool inflates_to_payload(const uint8_t *packed, size_t length)
{
    static const uint8_t tail[4] = {0, 0, 0xff, 0xff};
    uint8_t *output = allocate(run.payload_length + 64);
    z_stream z = {0};
    if (inflateInit2(&z, -15) != Z_OK) die("inflateInit2");
    z.next_out = output, z.avail_out = (uInt)run.payload_length + 64;
    z.next_in = (uint8_t *)packed, z.avail_in = (uInt)length;
    int status = inflate(&z, Z_NO_FLUSH);
    if (status == Z_OK || status == Z_BUF_ERROR) {
        z.next_in = (uint8_t *)tail, z.avail_in = sizeof tail;
        status = inflate(&z, Z_SYNC_FLUSH);
    }
    bool same = (status == Z_OK || status == Z_BUF_ERROR || status == Z_STREAM_END) && z.total_out == run.payload_length
                && !memcmp(output, run.payload, run.payload_length);
    inflateEnd(&z);
    free(output);
    return same;
}

/* ---- connections ---- */

static void watch(struct conn *c, int operation)
{
    bool reads = !(c->role == STALLED && c->state == OPEN);
    struct epoll_event event = {.events = (reads ? EPOLLIN : 0) | (c->waits_for_output ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(run.epoll, operation, c->fd, &event)) die("epoll_ctl: %s", strerror(errno));
}

static void end(struct conn *c, const char *reason)
{
    if (c->state < OPEN) run.opening--;
    else run.open--;
    close(c->fd);
    c->fd = -1, c->state = FREE;
    run.mode->ended(c, reason);
}

/* Begin a connection. A source address has some 28,000 ports, so they are spread over 127.1.0.0/16. */
static void start(struct conn *c)
{
    int on = 1, small = 4096, segment = 536;
    c->state = CONNECTING;
    c->close_seen = false, c->owed = c->phase = c->control_length = c->rest_length = 0;
    c->replies = 0;
    c->deadline = run.now + 20 * SECOND;
    run.opening++;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (c->role == STALLED) {   /* the kernel, at both ends, shall hold little for it: what is sent to it waits in the server */
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
        setsockopt(c->fd, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
    }
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001u + (uint32_t)(run.source++ % 250))};
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)option.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) die("bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) die("connect: %s", strerror(errno));
    c->waits_for_output = true;
    watch(c, EPOLL_CTL_ADD);
}

static void want_output(struct conn *c, bool wanted)
{
    if (c->waits_for_output != wanted) {
        c->waits_for_output = wanted;
        watch(c, EPOLL_CTL_MOD);
    }
}

/* Send what is due: control frames between data frames. */
static void flush(struct conn *c)
{
    while (c->owed || c->control_length) {
        bool control = c->control_length && c->phase == 0;
        size_t length = c->control_length;
        const uint8_t *from = c->control;
        if (!control) {
            from = run.stream + c->phase;
            length = run.stream_length - c->phase;
            if (c->control_length) length = run.frame_length - c->phase;
            if (length > c->owed) length = c->owed;
        }
        ssize_t n = send(c->fd, from, length, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) return end(c, strerror(errno));
            return want_output(c, true);
        }
        if (control) {
            memmove(c->control, c->control + n, c->control_length -= (size_t)n);
            if (c->control_length) return want_output(c, true);
        } else {
            c->owed -= (size_t)n;
            c->phase = (c->phase + (size_t)n) % run.frame_length;
        }
    }
    want_output(c, false);
}

static void send_control(struct conn *c, enum opcode opcode, const uint8_t *payload, size_t length)
{
    if (c->control_length + length + 14 > CONTROL_LIMIT) return;   /* a flood of pings: some pongs may be left out (RFC 6455, 5.5.3) */
    c->control_length += put_frame(c->control + c->control_length, (uint8_t)(0x80 | opcode), payload, length);
}

static void send_message(struct conn *c)
{
    c->owed += run.frame_length;
    run.sent++;
}

static void say_goodbye(struct conn *c)
{
    static const uint8_t normal[2] = {1000 >> 8, 1000 & 0xff};
    c->state = CLOSING;
    c->deadline = run.now + 20 * SECOND;
    send_control(c, CLOSE, normal, 2);
    flush(c);
}

/* The key is RFC 6455's own example, so that the right answer is a constant. */
static void shake(struct conn *c)
{
    char head[1024];
    const char *path = c->role == PUBLISHER ? "/publish" : c->role == ECHO ? "/" : "/subscribe";
    int length = snprintf(head, sizeof head,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nUser-Agent: load\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n", path, option.port,
        option.deflate || option.offer ? "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
                         "client_no_context_takeover; client_max_window_bits\r\n" : "");
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) return end(c, strerror(error));
    if (send(c->fd, head, (size_t)length, MSG_NOSIGNAL) != length) return end(c, "the request was not sent");
    c->state = SHAKING;
    want_output(c, false);
}

static const char *find_header(const char *head, const char *name)
{
    const char *line = strcasestr(head, name);
    return line ? line + strlen(name) : NULL;
}

static const char *refused(char *head)
{
    static char text[160];
    if (strncmp(head, "HTTP/1.1 101", 12)) {
        snprintf(text, sizeof text, "the handshake was refused: %.*s", (int)strcspn(head, "\r\n"), head);
        return text;
    }
    const char *accept = find_header(head, "\r\nsec-websocket-accept:");
    if (!accept || strncmp(accept + strspn(accept, " "), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", 28)) return "a wrong Sec-WebSocket-Accept";
    if (!option.deflate) return NULL;
    char *extensions = (char *)find_header(head, "\r\nsec-websocket-extensions:");
    if (extensions) extensions[strcspn(extensions, "\r\n")] = 0;
    if (!extensions || !strcasestr(extensions, "permessage-deflate")) return "permessage-deflate was not accepted";
    if (!strcasestr(extensions, "server_no_context_takeover")) return "server_no_context_takeover was not accepted";
    const char *bits = strcasestr(extensions, "client_max_window_bits=");
    run.window_bits = bits ? atoi(bits + 23 + (bits[23] == '"')) : 15;
    if (run.window_bits < 9) run.window_bits = 9;   /* zlib's least; 8 and 9 inflate alike */
    return NULL;
}

/* Return how many bytes were the head: 0 if its end has not come, and if the connection is ended. */
static size_t take_head(struct conn *c, uint8_t *bytes, size_t length)
{
    uint8_t *stop = memmem(bytes, length, "\r\n\r\n", 4);
    if (!stop) {
        if (length > HEAD_LIMIT) end(c, "the response's head is too long");
        return 0;
    }
    uint8_t kept = stop[2];
    stop[2] = 0;
    const char *fault = refused((char *)bytes);
    if (fault) {
        end(c, fault);
        return 0;
    }
    stop[2] = kept;
    c->state = OPEN;
    run.opening--, run.open++;
    run.mode->opened(c);
    return (size_t)(stop + 4 - bytes);
}

static void take_message(struct conn *c, uint8_t first, const uint8_t *payload, size_t length)
{
    bool packed = first & 0x40, check = c->replies == 0 || run.replies % CHECK_EVERY == 0;
    if ((first & 0xbf) != (0x80 | (option.binary ? BINARY : TEXT))) return end(c, "a reply of another kind, or fragmented");
    if (packed && !option.deflate && !option.offer) return end(c, "a compressed reply that was not negotiated");
    if (!packed && length != run.payload_length) return end(c, "a reply of another length");
    if (check) {
        bool same = packed ? inflates_to_payload(payload, length) : !memcmp(payload, run.payload, length);
        if (!same) return end(c, "a reply of other contents");
        run.checked++;
    }
    run.compressed += packed;
    run.replies++;
    c->replies++;
    run.mode->replied(c);
}

static void take_frame(struct conn *c, uint8_t first, const uint8_t *payload, size_t length)
{
    switch (first & 0x0f) {
    case PING:
        run.pings++;
        if (c->state == OPEN) send_control(c, PONG, payload, length);
        return;
    case PONG:
        return;
    case CLOSE:
        c->close_seen = true;
        if (c->state != CLOSING) {
            char text[200];
            snprintf(text, sizeof text, "the server closed: %d %.*s", length > 1 ? payload[0] << 8 | payload[1] : 1005,
                     length > 2 ? (int)(length - 2) : 0, length > 2 ? (const char *)payload + 2 : "");
            return end(c, text);
        }
        c->deadline = run.now + CLOSE_PATIENCE;
        return;
    default:
        if (c->state == OPEN) take_message(c, first, payload, length);
    }
}

/* Return the length of the frame at the beginning, or 0 if its end has not come. */
static size_t measure_frame(const uint8_t *bytes, size_t length, size_t *head)
{
    if (length < 2) return 0;
    uint64_t size = bytes[1] & 0x7f;
    *head = size == 126 ? 4 : size == 127 ? 10 : 2;
    if (length < *head) return 0;
    if (size == 126) size = (uint64_t)bytes[2] << 8 | bytes[3];
    else if (size == 127) for (int i = size = 0; i < 8; i++) size = size << 8 | bytes[2 + i];
    if (size > INPUT_SIZE - 14) die("a frame of %llu bytes", (unsigned long long)size);
    return length < *head + size ? 0 : *head + (size_t)size;
}

static void keep_rest(struct conn *c, const uint8_t *bytes, size_t length)
{
    if (length > c->rest_size) {
        free(c->rest);
        c->rest_size = length < 256 ? 256 : length;
        c->rest = allocate(c->rest_size);
    }
    if (length) memcpy(c->rest, bytes, length);
    c->rest_length = length;
}

static void receive(struct conn *c)
{
    size_t at = 0, length = c->rest_length, head = 0, size;
    if (length) memcpy(input, c->rest, length);
    ssize_t n = recv(c->fd, input + length, INPUT_SIZE - length, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 && c->close_seen) return end(c, NULL);
    if (n < 0) return end(c, strerror(errno));
    if (n == 0) return end(c, "the server ended without a Close frame");
    length += (size_t)n;
    if (c->state == SHAKING) {
        at = take_head(c, input, length);
        if (c->state < SHAKING) return;
    }
    while (c->state >= OPEN && (size = measure_frame(input + at, length - at, &head))) {
        if (input[at + 1] & 0x80) return end(c, "a masked frame");
        take_frame(c, input[at], input + at + head, size - head);
        if (c->fd < 0 || c->state < OPEN) return;   /* it was ended, or ended and begun anew */
        at += size;
    }
    keep_rest(c, input + at, length - at);
    if (c->state >= OPEN) flush(c);
}

/* Wait for events, at most for a time in milliseconds, and serve them. Returns whether standard input has something. */
static bool turn(int patience)
{
    struct epoll_event events[512];
    bool asked = false;
    int n = epoll_wait(run.epoll, events, 512, patience);
    run.now = read_clock(CLOCK_MONOTONIC);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (!c) {
            asked = true;
            continue;
        }
        if (c->fd < 0) continue;
        if (c->role == STALLED && c->state == OPEN && events[i].events & (EPOLLHUP | EPOLLERR)) {
            end(c, "cut");
            continue;
        }
        if (events[i].events & EPOLLOUT) {
            if (c->state == CONNECTING) shake(c);
            else flush(c);
        }
        if (c->fd >= 0 && c->state != CONNECTING && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
    }
    return asked;
}

/* ---- phases that all modes have ---- */

static void open_all(int total)
{
    int begun = 0;
    while (run.open < total) {
        while (begun < total && run.opening < option.parallel) start(&run.conns[begun++]);
        turn(100);
        if (run.failures) die("%s (with %d of %d connections open)", run.failure, run.open, total);
        for (int i = 0; i < begun; i++)
            if (run.conns[i].state != OPEN && run.conns[i].deadline < run.now)
                die("a handshake took more than 20 s (%d of %d are open)", run.open, total);
    }
}

static void close_all(int total)
{
    run.closing = true;
    for (int i = 0; i < total; i++)
        if (run.conns[i].state == OPEN) say_goodbye(&run.conns[i]);
    for (int64_t deadline = run.now + SECOND; run.open > 0 && run.now < deadline;) turn(50);
}

static void note_failure(const char *reason)
{
    if (!run.failures++) snprintf(run.failure, sizeof run.failure, "%s", reason);
}

/* Whoever is lost, other than by our own closing, makes the measurement void. */
static void must_stay(struct conn *c, const char *reason)
{
    (void)c;
    if (!run.closing) note_failure(reason ? reason : "a connection was closed");
}

static void nothing(struct conn *c)
{
    (void)c;
}

struct mark { int64_t time, cpu, own; uint64_t count; };

static struct mark mark(uint64_t count)
{
    return (struct mark){read_clock(CLOCK_MONOTONIC), server_cpu(), read_clock(CLOCK_PROCESS_CPUTIME_ID), count};
}

/* Do the mode's work for the warm-up, then for the measured time; print what both marks differ by. */
static void measure(void (*work)(void), const uint64_t *count)
{
    int64_t begin = run.now + (int64_t)(option.warmup * SECOND), stop = begin + (int64_t)(option.seconds * SECOND);
    while (run.now < begin) work();
    struct mark a = mark(*count);
    while (run.now < stop) work();
    struct mark b = mark(*count);
    printf("{\"mode\": \"%s\", \"seconds\": %.6f, \"count\": %llu, \"server_cpu_ns\": %lld, \"client_cpu_ns\": %lld", option.mode,
           (double)(b.time - a.time) / SECOND, (unsigned long long)(b.count - a.count), (long long)(b.cpu - a.cpu),
           (long long)(b.own - a.own));
}

static void print_rest(void)
{
    printf(", \"checked\": %llu, \"compressed\": %llu, \"pings\": %llu}\n", (unsigned long long)run.checked,
           (unsigned long long)run.compressed, (unsigned long long)run.pings);
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(int64_t *samples, size_t count)
{
    static const struct { const char *name; double share; } points[] = {
        {"p50", .5}, {"p95", .95}, {"p99", .99}, {"p99.9", .999}, {"max", 1}};
    if (!count) die("nothing was measured");
    qsort(samples, count, sizeof *samples, compare);
    printf(", \"samples\": %zu, \"microseconds\": {", count);
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        size_t at = (size_t)(points[i].share * (double)count);
        printf("%s\"%s\": %.1f", i ? ", " : "", points[i].name, (double)samples[at < count ? at : count - 1] / 1000);
    }
    printf("}");
}

/* ---- echo ---- */

static void echo_replied(struct conn *c)
{
    int due = !option.burst ? 1 : c->replies % (uint64_t)option.in_flight ? 0 : option.in_flight;
    for (int i = 0; i < due && run.running; i++) send_message(c);
}

static void turn_or_die(void)
{
    turn(100);
    if (run.failures) die("%s", run.failure);
}

/* Every message must be answered before the end. */
static void drain(void)
{
    run.running = false;
    for (int64_t deadline = run.now + 5 * SECOND; run.replies < run.sent; turn_or_die())
        if (run.now > deadline) die("%llu messages were not answered", (unsigned long long)(run.sent - run.replies));
    if (run.replies > run.sent) die("more replies than messages");
}

static void echo(void)
{
    open_all(option.connections);
    make_stream((size_t)option.size, option.in_flight);
    run.running = true;
    for (int i = 0; i < option.connections; i++) {
        for (int k = 0; k < option.in_flight; k++) send_message(&run.conns[i]);
        flush(&run.conns[i]);
    }
    measure(turn_or_die, &run.replies);
    drain();
    close_all(option.connections);
    print_rest();
}

/* ---- churn ---- */

static uint64_t cycles, unfinished;

static void churn_ended(struct conn *c, const char *reason)
{
    if (!reason) cycles++;
    else if (!run.closing) note_failure(reason);
    if (run.running) start(c);
}

static void churn_turn(void)
{
    static int64_t next_sweep;
    turn(100);
    if (run.failures > 100) die("%s, and so on", run.failure);
    if (run.now < next_sweep) return;
    next_sweep = run.now + SECOND / 10;
    for (int i = 0; i < option.parallel; i++) {
        struct conn *c = &run.conns[i];
        if (c->state == FREE || c->deadline > run.now) continue;
        unfinished += c->close_seen;   /* the server leaves it to the client to end */
        end(c, c->close_seen ? NULL : c->state == CLOSING ? "no Close frame within 20 s" : "no handshake within 20 s");
    }
}

static void churn(void)
{
    run.running = true;
    for (int i = 0; i < option.parallel; i++) start(&run.conns[i]);
    measure(churn_turn, &cycles);
    run.running = false;
    for (int64_t deadline = run.now + 2 * SECOND; run.open + run.opening > 0 && run.now < deadline;) churn_turn();
    printf(", \"unfinished\": %llu, \"failures\": %llu, \"failure\": ", (unsigned long long)unfinished, (unsigned long long)run.failures);
    print_string(run.failure);
    print_rest();
}

/* ---- idle ---- */

static void idle(void)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    open_all(option.connections);
    printf("READY\n");
    fflush(stdout);
    if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event)) die("standard input: %s", strerror(errno));
    while (!turn(1000)) {}
    run.closing = true;
    printf("{\"mode\": \"idle\", \"lost\": %llu, \"failure\": ", (unsigned long long)run.failures);
    print_string(run.failure);
    print_rest();
}

/* ---- fan-out ---- */

static uint64_t rounds;
static int missing;                /* readers that have not received the current message */
static int64_t published;
static struct { int64_t *times; size_t count, size; } samples;

static void sample(int64_t time)
{
    if (samples.count == samples.size) {
        samples.size = samples.size ? 2 * samples.size : 65536;
        samples.times = realloc(samples.times, samples.size * sizeof *samples.times);
        if (!samples.times) die("no memory for the samples");
    }
    samples.times[samples.count++] = time;
}

static void publish(void)
{
    struct conn *publisher = &run.conns[option.connections + option.stalled];
    missing = option.connections;
    published = run.now;
    rounds++;
    send_message(publisher);
    flush(publisher);
}

static void fanout_opened(struct conn *c)
{
    if (c->role == STALLED) watch(c, EPOLL_CTL_MOD);   /* from here on it is not read */
}

static void fanout_replied(struct conn *c)
{
    if (c->replies != rounds) return end(c, "a subscriber missed a message, or had one twice");
    if (--missing) return;
    sample(read_clock(CLOCK_MONOTONIC) - published);
    if (run.running) publish();
}

static void fanout_ended(struct conn *c, const char *reason)
{
    if (c->role == STALLED && c->state == FREE && !run.opening) return;   /* the server's policy for slow consumers */
    must_stay(c, reason);
}

static void fanout_turn(void)
{
    turn_or_die();
    if (missing && run.now > published + ROUND_PATIENCE) die("%d subscribers waited for a message for 10 s", missing);
}

static void finish_round(void)
{
    run.running = false;
    while (missing) fanout_turn();
}

static void fanout(void)
{
    for (int i = 0; i < option.connections + option.stalled; i++) run.conns[i].role = i < option.connections ? READER : STALLED;
    run.conns[option.connections + option.stalled].role = PUBLISHER;
    open_all(option.connections + option.stalled + 1);
    if (option.stalled) {   /* fill what the kernel holds for the stalled ones */
        make_stream((size_t)option.prime, 1);
        for (int i = 0; i < 4; i++) {
            publish();
            finish_round();
        }
    }
    make_stream((size_t)option.size, 1);
    samples.count = 0;
    run.running = true;
    publish();
    measure(fanout_turn, &run.replies);
    finish_round();
    print_percentiles(samples.times, samples.count);
    close_all(option.connections);
    print_rest();
}

/* ---- latency ---- */

#define RING 1024u

static int64_t schedule, first_due, last_due;   /* when the next message is due; whose latencies are of interest */

static void latency_replied(struct conn *c)
{
    int64_t due = c->due[c->due_first++ % RING];
    c->due_count--;
    if (due >= first_due && due < last_due) sample(read_clock(CLOCK_MONOTONIC) - due);
}

static void latency_turn(void)
{
    static int next;
    for (run.now = read_clock(CLOCK_MONOTONIC); schedule <= run.now; schedule += SECOND / option.rate) {
        struct conn *c = &run.conns[next++ % option.connections];
        if (c->due_count == RING) die("the server does not keep up with %d messages per second", option.rate);
        c->due[(c->due_first + c->due_count++) % RING] = schedule;
        send_message(c);
        flush(c);
    }
    turn(0);   /* spins: a timer would be late by more than what is measured */
    if (run.failures) die("%s", run.failure);
}

static void latency(void)
{
    open_all(option.connections);
    make_stream((size_t)option.size, 1);
    for (int i = 0; i < option.connections; i++) run.conns[i].due = allocate(RING * sizeof(int64_t));
    schedule = run.now = read_clock(CLOCK_MONOTONIC);
    first_due = run.now + (int64_t)(option.warmup * SECOND);
    last_due = first_due + (int64_t)(option.seconds * SECOND);
    measure(latency_turn, &run.replies);
    drain();
    print_percentiles(samples.times, samples.count);
    close_all(option.connections);
    print_rest();
}

/* ---- main ---- */

static const struct { const char *name; void (*go)(void); struct mode mode; } modes[] = {
    {"echo", echo, {nothing, echo_replied, must_stay}},
    {"churn", churn, {say_goodbye, nothing, churn_ended}},
    {"idle", idle, {nothing, nothing, must_stay}},
    {"fanout", fanout, {fanout_opened, fanout_replied, fanout_ended}},
    {"latency", latency, {nothing, latency_replied, must_stay}},
};

static void read_pids(char *text)
{
    for (char *each = strtok(text, ","); each; each = strtok(NULL, ",")) {
        if (option.pid_count == MAX_PIDS) die("more than %d processes", MAX_PIDS);
        option.pids[option.pid_count++] = (pid_t)atoi(each);
    }
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"mode", 1, 0, 'm'}, {"port", 1, 0, 'p'}, {"connections", 1, 0, 'n'}, {"in-flight", 1, 0, 'f'}, {"size", 1, 0, 's'},
        {"parallel", 1, 0, 'k'}, {"cpu", 1, 0, 'c'}, {"pids", 1, 0, 'i'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'},
        {"rate", 1, 0, 'r'}, {"stalled", 1, 0, 'x'}, {"prime", 1, 0, 'y'}, {"binary", 0, 0, 'b'}, {"burst", 0, 0, 'u'},
        {"deflate", 0, 0, 'd'}, {"offer", 0, 0, 'o'}, {0}};
    for (int each; (each = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        switch (each) {
        case 'm': option.mode = optarg; break;
        case 'p': option.port = atoi(optarg); break;
        case 'n': option.connections = atoi(optarg); break;
        case 'f': option.in_flight = atoi(optarg); break;
        case 's': option.size = atoi(optarg); break;
        case 'k': option.parallel = atoi(optarg); break;
        case 'c': option.cpu = atoi(optarg); break;
        case 'i': read_pids(optarg); break;
        case 't': option.seconds = atof(optarg); break;
        case 'w': option.warmup = atof(optarg); break;
        case 'r': option.rate = atoi(optarg); break;
        case 'x': option.stalled = atoi(optarg); break;
        case 'y': option.prime = atoi(optarg); break;
        case 'b': option.binary = true; break;
        case 'u': option.burst = true; break;
        case 'd': option.deflate = true; break;
        case 'o': option.offer = true; break;
        default: die("unknown option");
        }
    }
    if (option.port < 1 || option.port > 65535) die("--port is needed");
    if (option.connections < 1 || option.in_flight < 1 || option.parallel < 1 || option.rate < 1) die("a number below 1");
    int most = INPUT_SIZE / 4;
    if (option.size < 1 || option.size > most || option.prime > most) die("a size outside 1 to %d", most);
}

static void settle_in(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (option.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(option.cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set)) die("cannot run on core %d: %s", option.cpu, strerror(errno));
    }
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.now = read_clock(CLOCK_MONOTONIC);
    int most = option.connections + option.stalled + 1;
    run.conns = allocate(sizeof *run.conns * (size_t)(most > option.parallel ? most : option.parallel));
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    settle_in();
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(modes[i].name, option.mode)) continue;
        run.mode = &modes[i].mode;
        modes[i].go();
        return 0;
    }
    die("unknown mode %s", option.mode);
}
