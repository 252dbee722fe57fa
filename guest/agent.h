/*
 * The agent: process 1 of a microVM. agent.c tells the whole story; this header is what its files share.
 *
 *     agent.c           start, event loop, requests           agent_process.c   processes: spawn, streams, end
 *     agent_wire.c      fields and frames                     agent_child.c     between fork and exec
 *     agent_host.c      connections to the host               agent_inside.c    the mounts the child makes
 *     agent_stream.c    bytes between a process and the host  agent_identity.c  users, groups, capabilities
 *     agent_boot.c      first mounts, modules, clock          agent_report.c    process list, counters
 *     agent_root.c      disks and the overlay                 agent_net.c       interfaces
 *
 * One thread, one epoll, no allocation that the host or a process inside could make grow. The host is trusted (it is
 * the hypervisor), still its frames are bounds-checked; what runs inside is not.
 */

#ifndef AGENT_H
#define AGENT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent_wire.h"

#define STREAMS 3
#define MAX_PROCESSES 256
#define TEXT_BYTES 512
#define LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* How it was started. `socket` and `root` are for tests on an ordinary system: the agent then neither loads modules nor
 * sets the clock, and exits instead of switching the machine off. */
struct options {
	const char *socket;
	const char *root;
	bool trial;
};

extern struct options options;

/* Why something failed, in the words of the container runtime. */
struct failure {
	char stage[32];
	int error;
	char subject[TEXT_BYTES];
	char message[TEXT_BYTES];
};

/* agent.c */
struct watch {
	int fd;
	uint32_t events;
	void (*ready)(struct watch *watch, uint32_t events);
};

void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool failed(struct failure *failure, const char *stage, int error, const char *subject, const char *format, ...)
	__attribute__((format(printf, 5, 6)));
void watch_set(struct watch *watch, uint32_t events);
void watch_close(struct watch *watch);
void answer_ok(uint32_t rid, int64_t pid);
void answer_failure(uint32_t rid, const struct failure *failure);
void send_event_exited(int64_t number, int code, int signum);
int64_t now_ms(void);

/* agent_wire.c: reading fields */
struct span {
	const uint8_t *data;
	size_t size;
};

struct field {
	uint16_t tag;
	struct span value;
};

bool next_field(struct span *rest, struct field *field);
bool find_field(struct span body, uint16_t tag, struct span *value);
int64_t find_number(struct span body, uint16_t tag, int64_t otherwise);
char *copy_text(struct span value);
char *find_text(struct span body, uint16_t tag);
char **find_texts(struct span body, uint16_t tag, size_t *count);

/* agent_wire.c: writing them */
struct message {
	uint8_t *data;
	size_t size, capacity;
	bool full;
};

void message_begin(struct message *message, uint16_t kind, uint32_t rid);
void put_number(struct message *message, uint16_t tag, int64_t value);
void put_text(struct message *message, uint16_t tag, const char *text);
size_t put_group(struct message *message, uint16_t tag);
void end_group(struct message *message, size_t mark);
void message_end(struct message *message);

/* agent_host.c */
int connect_host(unsigned port);
int connect_stream(const uint8_t *token);

/* agent_stream.c */
struct stream;
struct process;
struct stream *stream_new(struct process *owner, int inside, int outside, bool outwards, bool inwards);
bool stream_drained(struct stream *stream);
bool stream_silent(struct stream *stream);
int stream_descriptor(struct stream *stream);
void stream_close(struct stream *stream);

/* agent_boot.c */
void boot_mounts(void);
void load_modules(void);
void set_clock(int64_t clock_ns);
void add_entropy(struct span entropy);
void power_off(void) __attribute__((noreturn));

/* agent_root.c */
bool make_base(struct failure *failure);
bool assemble_root(struct span root, struct failure *failure);
bool store_files(struct span body, struct failure *failure);
void release_root(void);
const char *root_path(void);
const char *files_path(void);
const char *upper_path(void);

/* agent_net.c */
bool configure_network(struct span body, struct failure *failure);

/* agent_process.c */
enum { STREAM_IN, STREAM_OUT, STREAM_ERR };

struct process {
	bool used, executed, ended, answered, told, failed;
	int64_t number;
	uint32_t rid;
	pid_t pid;
	int pidfd;
	int code, signum;
	int64_t ended_at_ms, moved_at_ms;
	bool terminal;
	uint8_t console_token[TOKEN_BYTES];
	struct watch report;
	struct failure failure;
	struct stream *streams[STREAMS];
};

void process_start(int64_t number, uint32_t rid, struct span process, struct span body);
struct process *process_find(int64_t number);
struct process *first_process(void);
void process_moved(struct process *process);
void reap(void);
bool tell_ends(void);
int process_signal(int64_t number, int signum, bool all);
int process_resize(int64_t number, int rows, int columns);
int signal_everything(int signum);
void kill_everything(void);

/* agent_child.c */
struct plan {
	bool first, terminal;
	struct span process, body;
	int stdio[3];
	int report;
	int namespaces;
};

void child_main(const struct plan *plan) __attribute__((noreturn));
void child_fail(const char *stage, int error, const char *subject, const char *format, ...)
	__attribute__((noreturn, format(printf, 4, 5)));
void child_fail_call(const char *stage, const char *call, const char *subject) __attribute__((noreturn));
const char *lower_error(int error);

/* agent_inside.c */
void enter_root(void);
void make_inside(struct span body);
void place_files(struct span body);
void make_directories(const char *stage, const char *path);
void seal_root(struct span body);

/* agent_identity.c */
struct identity {
	uid_t uid;
	gid_t gid;
	gid_t *groups;
	size_t group_count;
	char *home;
};

void resolve_identity(struct span process, struct identity *who);
void take_identity(const struct identity *who, struct span process);
void give_up(struct span process);

/* agent_report.c */
pid_t inner_pid(pid_t pid);
void report_processes(struct message *message);
void report_stats(struct message *message);
int each_inner_process(void (*call)(pid_t pid, void *context), void *context);

#endif
