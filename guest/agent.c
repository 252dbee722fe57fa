/*
 * agent: process 1 of a microVM.
 *
 *     kernel -> /init (this) -> proc, sys, dev; modules                            agent_boot.c
 *            -> connect to the host (vsock, CID 2, port 1024), say hello           agent_host.c
 *            <- configure: clock, entropy, disks, overlay, files, interfaces       agent_root.c, agent_net.c
 *            -> the first process, in a pid namespace of its own                   agent_process.c, agent_child.c
 *            <- requests: exec, signal, resize, processes, stats, clock, ping
 *            -> exited
 *            <- shutdown, or the end of the connection: kill, unmount, power off
 *
 * The protocol is drawn in bireme/wire/agent.py. This file is the beginning, the event loop and the requests.
 *
 * For tests on an ordinary system: agent --socket PATH connects to PATH.1024 and PATH.1025 (AF_UNIX) instead, and
 * exits at the end; --root DIRECTORY takes that as the root file system instead of disks. It mounts: give it mount,
 * pid, network and uts namespaces of its own.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define SOFTWARE "bireme-agent 1"
#define CONNECT_WAIT_MS 30000
#define REAP_WAIT_MS 3000
#define MAX_QUEUED (1 << 20)
#define EVENTS 64

struct options options;

static int poller = -1;
static bool configured;

/* The control connection: one request at a time is cut from `in`; answers wait in `out`. */
static struct {
	struct watch watch;
	uint8_t *in, *out;
	size_t in_size, in_room, out_start, out_size, out_room;
} control = {.watch.fd = -1};

static uint8_t scratch[HEAD_BYTES + MAX_FROM_AGENT];

int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* A line for whoever reads the machine's console. */
void note(const char *format, ...)
{
	static int target = -1;
	char text[TEXT_BYTES] = "<5>bireme-agent: ";
	size_t head = strlen(text);
	va_list arguments;

	if (target < 0)
		target = options.trial ? STDERR_FILENO : open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	va_start(arguments, format);
	vsnprintf(text + head, sizeof(text) - head - 1, format, arguments);
	va_end(arguments);
	strcat(text, "\n");
	if (target >= 0 && write(target, text, strlen(text)) < 0)
		return;
}

/* Fill in a failure; false, so that `return failed(...)` reads well. */
bool failed(struct failure *failure, const char *stage, int error, const char *subject, const char *format, ...)
{
	va_list arguments;

	memset(failure, 0, sizeof(*failure));
	snprintf(failure->stage, sizeof(failure->stage), "%s", stage);
	snprintf(failure->subject, sizeof(failure->subject), "%s", subject);
	failure->error = error;
	va_start(arguments, format);
	vsnprintf(failure->message, sizeof(failure->message), format, arguments);
	va_end(arguments);
	return false;
}

/* Wait for these events; with none the descriptor leaves epoll, which would report hang-ups all the same. */
void watch_set(struct watch *watch, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	if (watch->fd < 0 || watch->events == events)
		return;
	epoll_ctl(poller, !events ? EPOLL_CTL_DEL : watch->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, watch->fd, &event);
	watch->events = events;
}

void watch_close(struct watch *watch)
{
	if (watch->fd < 0)
		return;
	watch_set(watch, 0);
	close(watch->fd);
	watch->fd = -1;
}

static void finish(void) __attribute__((noreturn));

static void finish(void)
{
	int64_t until = now_ms() + REAP_WAIT_MS;

	kill_everything();
	while (now_ms() < until) {
		pid_t pid = waitpid(-1, NULL, WNOHANG);

		if (pid < 0)
			break;
		if (pid == 0)
			usleep(1000);
	}
	release_root();
	power_off();
}

static void flush(void)
{
	while (control.out_size) {
		ssize_t count = send(control.watch.fd, control.out + control.out_start, control.out_size,
				     MSG_NOSIGNAL | MSG_DONTWAIT);

		if (count < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (count < 0)
			finish();
		control.out_start += (size_t)count;
		control.out_size -= (size_t)count;
	}
	if (!control.out_size)
		control.out_start = 0;
	watch_set(&control.watch, (control.out_size < MAX_QUEUED ? EPOLLIN : 0) | (control.out_size ? EPOLLOUT : 0));
}

static void queue(const uint8_t *data, size_t size)
{
	if (control.out_start && control.out_start + control.out_size + size > control.out_room) {
		memmove(control.out, control.out + control.out_start, control.out_size);
		control.out_start = 0;
	}
	if (control.out_size + size > control.out_room) {
		control.out_room = control.out_size + size;
		control.out = realloc(control.out, control.out_room);
		if (!control.out)
			abort();
	}
	memcpy(control.out + control.out_start + control.out_size, data, size);
	control.out_size += size;
}

static struct message begin(uint16_t kind, uint32_t rid)
{
	struct message message = {.data = scratch, .capacity = sizeof(scratch)};

	message_begin(&message, kind, rid);
	return message;
}

static void send_message(struct message *message)
{
	message_end(message);
	queue(message->data, message->size);
	flush();
}

void answer_ok(uint32_t rid, int64_t pid)
{
	struct message message = begin(KIND_OK, rid);

	if (pid)
		put_number(&message, TAG_PID, pid);
	send_message(&message);
}

void answer_failure(uint32_t rid, const struct failure *failure)
{
	struct message message = begin(KIND_ERROR, rid);

	put_text(&message, TAG_STAGE, failure->stage);
	put_number(&message, TAG_ERRNO, failure->error);
	put_text(&message, TAG_SUBJECT, failure->subject);
	put_text(&message, TAG_MESSAGE, failure->message);
	send_message(&message);
}

void send_event_exited(int64_t number, int code, int signum)
{
	struct message message = begin(KIND_EXITED, 0);

	put_number(&message, TAG_NUMBER, number);
	put_number(&message, TAG_CODE, code);
	put_number(&message, TAG_SIGNAL, signum);
	send_message(&message);
}

static void say_hello(void)
{
	struct message message = begin(KIND_HELLO, 0);
	struct utsname name = {0};

	uname(&name);
	put_number(&message, TAG_VERSION, AGENT_VERSION);
	put_number(&message, TAG_OLDEST, AGENT_OLDEST);
	put_text(&message, TAG_SOFTWARE, SOFTWARE);
	put_text(&message, TAG_KERNEL, name.release);
	send_message(&message);
}

/* Answer with what a call returned: 0 or an errno. */
static void answer_result(uint32_t rid, const char *stage, int error)
{
	struct failure failure;

	if (!error) {
		answer_ok(rid, 0);
		return;
	}
	failed(&failure, stage, error, "", "%s", lower_error(error));
	answer_failure(rid, &failure);
}

static void configure(uint32_t rid, struct span body)
{
	struct failure failure;
	struct span root, process, entropy;

	if (configured) {
		failed(&failure, "agent", EALREADY, "", "the machine is configured already");
		answer_failure(rid, &failure);
		return;
	}
	configured = true;
	set_clock(find_number(body, TAG_CLOCK_NS, 0));
	find_field(body, TAG_ENTROPY, &entropy);
	add_entropy(entropy);
	find_field(body, TAG_ROOT, &root);
	find_field(body, TAG_PROCESS, &process);
	if (!make_base(&failure) || !assemble_root(root, &failure) || !store_files(body, &failure) ||
	    !configure_network(body, &failure))
		answer_failure(rid, &failure);
	else
		process_start(0, rid, process, body);
}

static void execute(uint32_t rid, struct span body)
{
	struct span process;
	int64_t number = find_number(body, TAG_NUMBER, 0);

	if (number > 0 && find_field(body, TAG_PROCESS, &process))
		process_start(number, rid, process, body);
	else
		answer_result(rid, "exec", EINVAL);
}

static void answer_report(uint32_t rid, void (*report)(struct message *message))
{
	struct message message = begin(KIND_OK, rid);

	report(&message);
	send_message(&message);
}

static void request(uint16_t kind, uint32_t rid, struct span body)
{
	switch (kind) {
	case KIND_CONFIGURE:
		configure(rid, body);
		break;
	case KIND_EXEC:
		execute(rid, body);
		break;
	case KIND_SIGNAL:
		answer_result(rid, "signal",
			      process_signal(find_number(body, TAG_NUMBER, 0), (int)find_number(body, TAG_SIGNUM, -1),
					     find_number(body, TAG_ALL, 0) != 0));
		break;
	case KIND_RESIZE:
		answer_result(rid, "resize",
			      process_resize(find_number(body, TAG_NUMBER, 0), (int)find_number(body, TAG_ROWS, 0),
					     (int)find_number(body, TAG_COLUMNS, 0)));
		break;
	case KIND_PROCESSES:
		answer_report(rid, report_processes);
		break;
	case KIND_STATS:
		answer_report(rid, report_stats);
		break;
	case KIND_CLOCK:
		set_clock(find_number(body, TAG_CLOCK_NS, 0));
		answer_ok(rid, 0);
		break;
	case KIND_PING:
		answer_ok(rid, 0);
		break;
	case KIND_SHUTDOWN:
		finish();
	default:
		answer_result(rid, "agent", ENOSYS);
	}
}

static uint32_t number_at(const uint8_t *at, int bytes)
{
	uint32_t value = 0;

	while (bytes--)
		value = value << 8 | at[bytes];
	return value;
}

/* Cut requests from what has come; a host that breaks the frame is none. */
static void cut_requests(void)
{
	size_t at = 0;

	while (control.in_size - at >= HEAD_BYTES) {
		const uint8_t *head = control.in + at;
		size_t length = number_at(head, 4);

		if (length > MAX_TO_AGENT)
			finish();
		if (control.in_size - at - HEAD_BYTES < length)
			break;
		request((uint16_t)number_at(head + 4, 2), number_at(head + 8, 4),
			(struct span){head + HEAD_BYTES, length});
		at += HEAD_BYTES + length;
	}
	memmove(control.in, control.in + at, control.in_size - at);
	control.in_size -= at;
}

static void control_ready(struct watch *watch, uint32_t events)
{
	ssize_t count;

	if (events & EPOLLOUT)
		flush();
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	if (control.in_room - control.in_size < 65536) {
		control.in_room = control.in_size + 65536;
		control.in = realloc(control.in, control.in_room);
		if (!control.in)
			abort();
	}
	count = recv(watch->fd, control.in + control.in_size, control.in_room - control.in_size, MSG_DONTWAIT);
	if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR))
		finish();
	if (count > 0) {
		control.in_size += (size_t)count;
		cut_requests();
	}
}

static void connect_control(void)
{
	int64_t until = now_ms() + CONNECT_WAIT_MS;

	while ((control.watch.fd = connect_host(CONTROL_PORT)) < 0) {
		if (now_ms() > until) {
			note("no connection to the host: %s", strerror(errno));
			power_off();
		}
		usleep(5000);
	}
	control.watch.ready = control_ready;
	watch_set(&control.watch, EPOLLIN);
}

static void signals_ready(struct watch *watch, uint32_t events)
{
	struct signalfd_siginfo info[8];

	(void)events;
	while (read(watch->fd, info, sizeof(info)) > 0)
		;
	reap();
}

static void watch_children(struct watch *watch)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	watch->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	watch->ready = signals_ready;
	watch_set(watch, EPOLLIN);
}

static void run(void)
{
	struct epoll_event events[EVENTS];
	bool left = false;

	for (;;) {
		int count = epoll_wait(poller, events, EVENTS, left ? 10 : -1), i;

		for (i = 0; i < count; i++) {
			struct watch *watch = events[i].data.ptr;

			if (watch->fd >= 0 && watch->events)
				watch->ready(watch, events[i].events);
		}
		left = tell_ends();
	}
}

static void parse_options(int argc, char **argv)
{
	static const struct option known[] = {
		{"socket", required_argument, NULL, 's'}, {"root", required_argument, NULL, 'r'}, {0}};
	int option;

	if (getpid() == 1 && argc < 3)
		return;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (option == 's')
			options.socket = optarg;
		else if (option == 'r')
			options.root = optarg;
		else
			exit(2);
	}
	if (!options.socket) {
		fputs("agent: this is process 1 of a microVM; for tests: agent --socket PATH [--root DIRECTORY]\n", stderr);
		exit(2);
	}
	options.trial = true;
}

int main(int argc, char **argv)
{
	struct watch children = {.fd = -1};

	parse_options(argc, argv);
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (!options.trial) {
		boot_mounts();
		reboot(RB_DISABLE_CAD);
		load_modules();
	}
	watch_children(&children);
	connect_control();
	say_hello();
	run();
}
