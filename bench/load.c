// load: a websocket load client for one thread.
//
//   load PORT PATH CONNECTIONS SENDS IN_FLIGHT PAYLOAD_BYTES
//
// Opens CONNECTIONS websockets on 127.0.0.1 and counts how often MARK occurs in what they receive.
// Fan-out (default): connection 0 sends SENDS messages, at most IN_FLIGHT of them unanswered; every connection must see each.
// Echo (ECHO=1): every connection sends, waits for one MARK and sends again, SENDS times.
// Hold (HOLD=seconds): only connects and holds, answering pings.
//
// Environment:
//   INIT_FILE  line i holds what connection i sends first; "\t" separates messages, each waits for one frame
//   SEND_FILE  line i holds what connection i sends under load; "%s" becomes the payload, "@@@@@@@" a number of its own
//   MARK       what to count
// A file with one line serves all connections. Prints READY when all are connected, START, then one result line.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FIRST_BUFFER = 1 << 13, LAST_BUFFER = 1 << 22, STALL_MS = 10000 };

typedef struct {
  int fd;
  unsigned char *buffer;
  int length, capacity;
  long seen;
  char *message;
  double sent_at;
} Connection;

static char **lines_of(const char *name, int *count) {
  *count = 0;
  const char *path = getenv(name);
  if (!path) return NULL;
  FILE *file = fopen(path, "r");
  if (!file) { perror(path); exit(2); }
  char **lines = NULL, *line = NULL;
  size_t size = 0;
  ssize_t length;
  while ((length = getline(&line, &size, file)) > 0) {
    if (line[length - 1] == '\n') line[length - 1] = 0;
    lines = realloc(lines, sizeof(char *) * (*count + 1));
    lines[(*count)++] = strdup(line);
  }
  fclose(file);
  return lines;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void send_frame(int fd, int opcode, const char *payload, size_t length) {
  unsigned char *frame = malloc(length + 14);
  int k = 0;
  frame[k++] = 0x80 | opcode;
  if (length < 126) frame[k++] = 0x80 | length;
  else if (length < 65536) { frame[k++] = 0x80 | 126; frame[k++] = length >> 8; frame[k++] = length & 255; }
  else { frame[k++] = 0x80 | 127; for (int i = 7; i >= 0; i--) frame[k++] = length >> (8 * i); }
  memset(frame + k, 0, 4);  // a mask of zeros leaves the payload as it is
  k += 4;
  memcpy(frame + k, payload, length);
  for (size_t done = 0; done < k + length;) {
    ssize_t n = write(fd, frame + done, k + length - done);
    if (n > 0) done += n;
    else if (errno != EAGAIN) { perror("write"); exit(1); }
  }
  free(frame);
}

static void send_numbered(Connection *c) {
  // Every run begins elsewhere, or the server would know its messages from the run before.
  static long number = -1;
  if (number < 0) number = (long)(now() * 1e3) % 10000000;
  char *place = strstr(c->message, "@@@@@@@");
  char text[16];
  if (!place) { send_frame(c->fd, 1, c->message, strlen(c->message)); return; }
  snprintf(text, sizeof text, "%07ld", ++number % 10000000);
  memcpy(place, text, 7);
  send_frame(c->fd, 1, c->message, strlen(c->message));
  memcpy(place, "@@@@@@@", 7);
}

static int frame_at(Connection *c, int from, int *head, uint64_t *length) {
  unsigned char *b = c->buffer + from;
  int left = c->length - from;
  if (left < 2) return 0;
  *head = 2;
  *length = b[1] & 127;
  if (*length == 126) {
    if (left < 4) return 0;
    *head = 4;
    *length = b[2] << 8 | b[3];
  } else if (*length == 127) {
    if (left < 10) return 0;
    *head = 10;
    *length = 0;
    for (int i = 0; i < 8; i++) *length = *length << 8 | b[2 + i];
  }
  return (uint64_t)left >= *head + *length;
}

static int fill(Connection *c) {
  if (c->length == c->capacity) {
    if (c->capacity >= LAST_BUFFER) { fprintf(stderr, "frame too large\n"); exit(1); }
    c->capacity *= 4;
    c->buffer = realloc(c->buffer, c->capacity);
  }
  int n = read(c->fd, c->buffer + c->length, c->capacity - c->length);
  if (n > 0) c->length += n;
  return n;
}

static void drop(Connection *c, int bytes) {
  memmove(c->buffer, c->buffer + bytes, c->length - bytes);
  c->length -= bytes;
}

static void wait_for_frame(Connection *c, int index) {
  int head;
  uint64_t length;
  while (!frame_at(c, 0, &head, &length))
    if (fill(c) <= 0) { fprintf(stderr, "connection %d closed while it was set up\n", index); exit(1); }
  if (strstr(getenv("VERBOSE") ? "1" : "", "1")) fprintf(stderr, "%.*s\n", (int)length, c->buffer + head);
  if ((c->buffer[0] & 15) == 8) { fprintf(stderr, "connection %d refused: %.*s\n", index, (int)length - 2, c->buffer + head + 2); exit(1); }
  drop(c, head + length);
}

static void open_connection(Connection *c, int index, int port, const char *path, const char *init) {
  int one = 1;
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)}, from = {.sin_family = AF_INET};
  char address[32];
  snprintf(address, sizeof address, "127.0.0.%d", 2 + index / 20000);  // 20,000 local ports per address
  inet_pton(AF_INET, address, &from.sin_addr);
  inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
  bind(c->fd, (void *)&from, sizeof from);
  if (connect(c->fd, (void *)&to, sizeof to)) { perror("connect"); exit(1); }
  char request[1024];
  int n = snprintf(request, sizeof request,
                   "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", path, port);
  if (write(c->fd, request, n) != n) { perror("write"); exit(1); }
  c->buffer = malloc(c->capacity = FIRST_BUFFER);
  unsigned char *end = NULL;
  while (!end) {
    if (fill(c) <= 0) { fprintf(stderr, "connection %d: no handshake\n", index); exit(1); }
    end = memmem(c->buffer, c->length, "\r\n\r\n", 4);
  }
  if (!memmem(c->buffer, c->length, " 101 ", 5)) { fprintf(stderr, "refused: %.*s\n", c->length, c->buffer); exit(1); }
  drop(c, end + 4 - c->buffer);
  while (init && *init) {
    const char *tab = strchrnul(init, '\t');
    send_frame(c->fd, 1, init, tab - init);
    wait_for_frame(c, index);
    init = *tab ? tab + 1 : tab;
  }
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static char *with_payload(const char *format, int bytes) {
  const char *place = strstr(format, "%s");
  if (!place) return strdup(format);
  char *text = malloc(strlen(format) + bytes);
  int before = place - format;
  memcpy(text, format, before);
  memset(text + before, 'x', bytes);
  strcpy(text + before + bytes, place + 2);
  return text;
}

static int ascending(const void *a, const void *b) {
  double d = *(const double *)a - *(const double *)b;
  return d < 0 ? -1 : d > 0;
}

static int count(const unsigned char *from, uint64_t length, const char *mark) {
  const unsigned char *end = from + length;
  int hits = 0;
  size_t size = strlen(mark);
  while (from < end && (from = memmem(from, end - from, mark, size))) { hits++; from += size; }
  return hits;
}

int main(int argc, char **argv) {
  if (argc < 7) { fprintf(stderr, "usage: load PORT PATH CONNECTIONS SENDS IN_FLIGHT PAYLOAD_BYTES\n"); return 2; }
  int port = atoi(argv[1]), connections = atoi(argv[3]), sends = atoi(argv[4]), in_flight = atoi(argv[5]);
  int payload = atoi(argv[6]), echo = getenv("ECHO") != NULL, inits, messages;
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const char *mark = getenv("MARK") ? getenv("MARK") : "xxxxxxxxxx";
  char **init = lines_of("INIT_FILE", &inits), **message = lines_of("SEND_FILE", &messages);
  Connection *all = calloc(connections, sizeof(Connection));
  int poll = epoll_create1(0);
  double start = now();
  for (int i = 0; i < connections; i++) {
    open_connection(&all[i], i, port, argv[2], inits ? init[i % inits] : NULL);
    if (messages) all[i].message = with_payload(message[i % messages], payload);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
    epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &event);
  }
  fprintf(stderr, "READY %d connections in %.2f s\n", connections, now() - start);
  usleep(500000);
  double hold_until = getenv("HOLD") ? now() + atof(getenv("HOLD")) : 0;
  printf("START\n");
  fflush(stdout);
  long total = 0, want = (long)connections * sends, timed = 0;
  int sent = 0;
  double *latency = malloc(sizeof(double) * (want + sends + 1)), *sent_at = malloc(sizeof(double) * (sends + 1));
  start = now();
  if (echo && !hold_until)
    for (int i = 0; i < connections; i++) { all[i].sent_at = now(); send_numbered(&all[i]); }
  while (hold_until ? now() < hold_until : total < want) {
    while (!hold_until && !echo && sent < sends && sent - timed < in_flight) { sent_at[sent++] = now(); send_numbered(&all[0]); }
    struct epoll_event events[1024];
    int n = epoll_wait(poll, events, 1024, hold_until ? 100 : STALL_MS);
    if (n == 0 && !hold_until) { fprintf(stderr, "stalled at %ld of %ld\n", total, want); return 1; }
    for (int k = 0; k < n; k++) {
      Connection *c = &all[events[k].data.u32];
      int got = fill(c);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) { fprintf(stderr, "connection %u was closed\n", events[k].data.u32); return 1; }
      int from = 0, head;
      uint64_t length;
      for (; frame_at(c, from, &head, &length); from += head + length) {
        if (length == 2 && c->buffer[from + head] == '{') send_frame(c->fd, 1, "{}", 2);
        int hits = count(c->buffer + from + head, length, mark);
        total += hits;
        c->seen += hits;
        if (echo && hits) {
          latency[timed++] = now() - c->sent_at;
          if (c->seen < sends) { c->sent_at = now(); send_numbered(c); }
        } else if (c == all)
          for (; hits && timed < sent; hits--) { latency[timed] = now() - sent_at[timed]; timed++; }
      }
      drop(c, from);
    }
  }
  double seconds = now() - start;
  qsort(latency, timed, sizeof(double), ascending);
  printf("count=%ld seconds=%.3f p50_ms=%.3f p99_ms=%.3f\n", total, seconds,
         timed ? latency[timed / 2] * 1e3 : 0, timed ? latency[timed * 99 / 100] * 1e3 : 0);
  return 0;
}
