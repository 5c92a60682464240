// load: a websocket load client for one thread.
//
//   load PORT PATH CONNECTIONS SENDS IN_FLIGHT PAYLOAD_BYTES
//
// Opens CONNECTIONS websockets on 127.0.0.1 and counts how often MARK occurs in what they receive.
// Fan-out (default): connection 0 sends SENDS messages, at most IN_FLIGHT of them unanswered; every connection must see each.
// Echo (ECHO=1): every connection sends, waits for one MARK and sends again, SENDS times.
// Hold (HOLD=seconds): only connects and holds, answering pings.
// Storm (STORM=n): opens n connections at once, and a further one for each that is live: when what it said first is
// answered. SENDS is not used. With HOLD they are held then.
//
// Environment:
//   INIT_FILE  line i holds what connection i sends first; "\t" separates messages, each waits for one frame
//   SEND_FILE  line i holds what connection i sends under load; "%s" becomes the payload, "@@@@@@@" a number of its own
//   MARK       what to count; without it, frames
//   EVERY      milliseconds from one message of a sender to its next, instead of as soon as the last is answered
//   PROTOBUF   1: lines and MARK are hexadecimal, frames are binary, the subprotocol is centrifuge-protobuf
//   HEADERS    more lines for the handshake, each ended by "\r\n"
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
#ifndef WITHOUT_ZLIB
#include <zlib.h>
#endif

enum { FIRST_BUFFER = 1 << 13, LAST_BUFFER = 1 << 22, STALL_MS = 10000 };

typedef struct {
  char *bytes;
  size_t length;
} Message;

typedef struct {
  int fd;
  unsigned char *buffer;
  int length, capacity;
  long seen;
  Message message;
  const char *init;
  double sent_at, next_at;
  int is_open, is_live;
} Connection;

static int is_protobuf;
static const char *headers = "";

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

static void send_frame(int fd, const char *payload, size_t length) {
  unsigned char *frame = malloc(length + 14);
  int k = 0;
  frame[k++] = 0x80 | (is_protobuf ? 2 : 1);
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

// What a line stands for: itself, or the bytes that it spells.
static Message message_of(const char *line, size_t length) {
  Message m = {malloc(length + 1), length};
  memcpy(m.bytes, line, length);
  if (is_protobuf) {
    m.length = length / 2;
    for (size_t i = 0; i < m.length; i++) sscanf(line + 2 * i, "%2hhx", (unsigned char *)&m.bytes[i]);
  }
  m.bytes[m.length] = 0;
  return m;
}

static void send_numbered(Connection *c) {
  // Every run begins elsewhere, or the server would know its messages from the run before.
  static long number = -1;
  if (number < 0) number = (long)(now() * 1e3) % 10000000;
  char *place = memmem(c->message.bytes, c->message.length, "@@@@@@@", 7);
  char text[16];
  c->sent_at = now();
  if (!place) { send_frame(c->fd, c->message.bytes, c->message.length); return; }
  snprintf(text, sizeof text, "%07ld", ++number % 10000000);
  memcpy(place, text, 7);
  send_frame(c->fd, c->message.bytes, c->message.length);
  memcpy(place, "@@@@@@@", 7);
}

// Say the next of what a connection says first; 0 if it has said all.
static int say_init(Connection *c) {
  if (!c->init || !*c->init) return 0;
  const char *tab = strchrnul(c->init, '\t');
  Message m = message_of(c->init, tab - c->init);
  send_frame(c->fd, m.bytes, m.length);
  free(m.bytes);
  c->init = *tab ? tab + 1 : tab;
  return 1;
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
  if (getenv("VERBOSE")) fprintf(stderr, "%.*s\n", (int)length, c->buffer + head);
  if ((c->buffer[0] & 15) == 8) { fprintf(stderr, "connection %d refused: %.*s\n", index, (int)length - 2, c->buffer + head + 2); exit(1); }
  // An error ends it here, where it is said, and not by what the server says to the next command.
  if (memmem(c->buffer + head, length, "\"error\":", 8)) { fprintf(stderr, "connection %d was answered: %.*s\n", index, (int)length, c->buffer + head); exit(1); }
  drop(c, head + length);
}

static void begin_connection(Connection *c, int index, int port, int flags) {
  int one = 1;
  c->buffer = malloc(c->capacity = FIRST_BUFFER);
  c->fd = socket(AF_INET, SOCK_STREAM | flags, 0);
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  // The port is chosen when it connects, and is free again at once when it ends: thousands of ports that wait for their
  // time-out make the search for the next one take milliseconds.
  struct linger none = {1, 0};
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)}, from = {.sin_family = AF_INET};
  char address[32];
  snprintf(address, sizeof address, "127.0.0.%d", 2 + index / 20000);  // 20,000 local ports per address
  inet_pton(AF_INET, address, &from.sin_addr);
  inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
  bind(c->fd, (void *)&from, sizeof from);
  if (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) { perror("connect"); exit(1); }
}

static void ask_upgrade(Connection *c, int port, const char *path) {
  char request[2048];
  int n = snprintf(request, sizeof request,
                   "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                   "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s\r\n", path, port,
                   is_protobuf ? "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n" : "", headers);
  if (write(c->fd, request, n) != n) { perror("write"); exit(1); }
}

// Whether the answer to the handshake is there; the program ends if it is a refusal.
static int is_upgraded(Connection *c) {
  unsigned char *end = memmem(c->buffer, c->length, "\r\n\r\n", 4);
  if (!end) return 0;
  if (!memmem(c->buffer, c->length, " 101 ", 5)) { fprintf(stderr, "refused: %.*s\n", c->length, c->buffer); exit(1); }
  drop(c, end + 4 - c->buffer);
  return c->is_open = 1;
}

static void open_connection(Connection *c, int index, int port, const char *path) {
  begin_connection(c, index, port, 0);
  ask_upgrade(c, port, path);
  while (!is_upgraded(c))
    if (fill(c) <= 0) { fprintf(stderr, "connection %d: no handshake\n", index); exit(1); }
  while (say_init(c)) wait_for_frame(c, index);
  fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

static Message with_payload(const char *format, int bytes) {
  Message m = message_of(format, strlen(format));
  char *place = memmem(m.bytes, m.length, "%s", 2);
  if (is_protobuf || !place) return m;
  char *text = malloc(m.length + bytes);
  int before = place - m.bytes;
  memcpy(text, m.bytes, before);
  memset(text + before, 'x', bytes);
  strcpy(text + before + bytes, place + 2);
  return (Message){text, strlen(text)};
}

static int ascending(const void *a, const void *b) {
  double d = *(const double *)a - *(const double *)b;
  return d < 0 ? -1 : d > 0;
}

static int count(const unsigned char *from, uint64_t length, Message mark) {
  const unsigned char *end = from + length;
  int hits = 0;
  if (!mark.length) return length > 2;
  while (from < end && (from = memmem(from, end - from, mark.bytes, mark.length))) { hits++; from += mark.length; }
  return hits;
}

// A compressed message (RFC 7692) as it was before, for one that needs no other to be read; valid until the next call.
static Message inflated(const unsigned char *from, uint64_t length) {
#ifdef WITHOUT_ZLIB
  fprintf(stderr, "a compressed message, and no zlib to read it with\n");
  exit(1);
#else
  static const unsigned char end[4] = {0, 0, 255, 255};
  static unsigned char text[LAST_BUFFER];
  static z_stream stream;
  if (!stream.state) inflateInit2(&stream, -15);
  inflateReset(&stream);
  stream.next_out = text, stream.avail_out = sizeof text;
  stream.next_in = (unsigned char *)from, stream.avail_in = length;
  int first = inflate(&stream, Z_SYNC_FLUSH);
  stream.next_in = (unsigned char *)end, stream.avail_in = sizeof end;
  int last = inflate(&stream, Z_SYNC_FLUSH);
  if (first != Z_OK || (last != Z_OK && last != Z_BUF_ERROR)) { fprintf(stderr, "a message cannot be decompressed\n"); exit(1); }
  return (Message){(char *)text, sizeof text - stream.avail_out};
#endif
}

// The protocol's ping in both encodings, and Socket.IO's: the same comes back, or "3" for the last.
static int answer_ping(Connection *c, const unsigned char *frame, uint64_t length) {
  if (length == 2 && !memcmp(frame, "{}", 2)) send_frame(c->fd, "{}", 2);
  else if (length == 1 && (frame[0] == 0 || frame[0] == '2')) send_frame(c->fd, frame[0] ? "3" : "\0", 1);
  else return 0;
  return 1;
}

static void storm(Connection *all, int connections, int at_once, int port, const char *path, int poll, double *latency) {
  double start = now();
  int live = 0, begun = 0;
  while (live < connections) {
    for (; begun < connections && begun - live < at_once; begun++) {
      begin_connection(&all[begun], begun, port, SOCK_NONBLOCK);
      struct epoll_event event = {.events = EPOLLOUT, .data.u32 = begun};
      epoll_ctl(poll, EPOLL_CTL_ADD, all[begun].fd, &event);
    }
    struct epoll_event events[1024];
    int n = epoll_wait(poll, events, 1024, STALL_MS);
    if (n == 0) { fprintf(stderr, "stalled with %d of %d\n", live, connections); exit(1); }
    for (int k = 0; k < n; k++) {
      Connection *c = &all[events[k].data.u32];
      if (events[k].events & EPOLLOUT) {
        ask_upgrade(c, port, path);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = events[k].data.u32};
        epoll_ctl(poll, EPOLL_CTL_MOD, c->fd, &event);
        continue;
      }
      int got = fill(c), head;
      uint64_t length;
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) { fprintf(stderr, "connection %u was closed\n", events[k].data.u32); exit(1); }
      if (!c->is_open && is_upgraded(c)) say_init(c);
      while (c->is_open && frame_at(c, 0, &head, &length)) {
        if ((c->buffer[0] & 15) == 8) { fprintf(stderr, "connection %u refused: %.*s\n", events[k].data.u32, (int)length - 2, c->buffer + head + 2); exit(1); }
        if (!answer_ping(c, c->buffer + head, length) && !c->is_live && !say_init(c)) {
          c->is_live = 1;
          latency[live++] = now() - start;
        }
        drop(c, head + length);
      }
    }
  }
}

int main(int argc, char **argv) {
  if (argc < 7) { fprintf(stderr, "usage: load PORT PATH CONNECTIONS SENDS IN_FLIGHT PAYLOAD_BYTES\n"); return 2; }
  int port = atoi(argv[1]), connections = atoi(argv[3]), sends = atoi(argv[4]), in_flight = atoi(argv[5]);
  int payload = atoi(argv[6]), echo = getenv("ECHO") != NULL, inits, messages;
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  is_protobuf = getenv("PROTOBUF") != NULL;
  if (getenv("HEADERS")) headers = getenv("HEADERS");
  double every = getenv("EVERY") ? atof(getenv("EVERY")) / 1e3 : 0;
  const char *marked = getenv("MARK") ? getenv("MARK") : "";
  Message mark = message_of(marked, strlen(marked));
  char **init = lines_of("INIT_FILE", &inits), **message = lines_of("SEND_FILE", &messages);
  Connection *all = calloc(connections, sizeof(Connection));
  int poll = epoll_create1(0);
  for (int i = 0; i < connections; i++) {
    if (inits) all[i].init = init[i % inits];
    if (messages) all[i].message = with_payload(message[i % messages], payload);
  }
  double start = now();
  if (getenv("STORM")) {
    double *lives = malloc(sizeof(double) * connections);
    if (!getenv("HOLD")) printf("START\n");
    fflush(stdout);
    storm(all, connections, atoi(getenv("STORM")), port, argv[2], poll, lives);
    if (!getenv("HOLD")) {
      printf("count=%d seconds=%.3f p50_ms=%.3f p99_ms=%.3f\n", connections, now() - start, lives[connections / 2] * 1e3, lives[connections * 99 / 100] * 1e3);
      return 0;
    }
  }
  for (int i = 0; i < connections && !getenv("STORM"); i++) {
    open_connection(&all[i], i, port, argv[2]);
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
  double next_at = start = now(), heard_at = start;
  if (echo && !hold_until)
    for (int i = 0; i < connections; i++) { all[i].next_at = start + every * i / connections; if (!every) send_numbered(&all[i]); }
  while (hold_until ? now() < hold_until : total < want) {
    while (!hold_until && !echo && sent < sends && sent - timed < in_flight && now() >= next_at) {
      next_at += every;
      sent_at[sent++] = now();
      send_numbered(&all[0]);
    }
    for (int i = 0; echo && every && i < connections; i++) {
      Connection *c = &all[i];
      if (now() < c->next_at || c->next_at < c->sent_at || c->seen >= sends) continue;
      send_numbered(c);
      // Not before it is answered.
      c->next_at = 0;
    }
    struct epoll_event events[1024];
    int n = epoll_wait(poll, events, 1024, every ? 1 : hold_until ? 100 : STALL_MS);
    if (n) heard_at = now();
    if (!hold_until && now() - heard_at > STALL_MS / 1e3) { fprintf(stderr, "stalled at %ld of %ld\n", total, want); return 1; }
    for (int k = 0; k < n; k++) {
      Connection *c = &all[events[k].data.u32];
      int got = fill(c);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) { fprintf(stderr, "connection %u was closed\n", events[k].data.u32); return 1; }
      int from = 0, head;
      uint64_t length;
      for (; frame_at(c, from, &head, &length); from += head + length) {
        Message said = {(char *)c->buffer + from + head, length};
        if (c->buffer[from] & 0x40) said = inflated(c->buffer + from + head, length);
        int hits = answer_ping(c, (unsigned char *)said.bytes, said.length) ? 0 : count((unsigned char *)said.bytes, said.length, mark);
        total += hits;
        c->seen += hits;
        if (echo && hits) {
          latency[timed++] = now() - c->sent_at;
          c->next_at = c->sent_at + every;
          if (c->seen < sends && !every) send_numbered(c);
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
