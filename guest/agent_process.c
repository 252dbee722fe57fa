/*
 * Processes: the machine's first one in pid, mount, ipc and uts namespaces of its own (so that it is process 1 there, as
 * in a container), and others that are executed beside it.
 *
 *     used ---- child reported why not ----> failed ---- reaped ----> free
 *       `---- report closed by exec -------> executed -- reaped ----> ended ---- output delivered ----> told ----> free
 *
 * The end of a process is told after its output: the connections are other ones, but the guest's kernel sends in the
 * order it was asked, and so does the host receive. What a stranger keeps open, or a host does not read, delays it by
 * some seconds only.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#define STALLED_FIRST_MS 10000
#define STALLED_MS 2000
#define SILENT_MS 20

static struct process processes[MAX_PROCESSES];
static int own_pid_namespace = -1;

struct process *process_find(int64_t number)
{
	size_t i;

	for (i = 0; i < MAX_PROCESSES; i++)
		if (processes[i].used && processes[i].number == number)
			return &processes[i];
	return NULL;
}

struct process *first_process(void)
{
	return process_find(0);
}

void process_moved(struct process *process)
{
	process->moved_at_ms = now_ms();
}

static void release(struct process *process)
{
	size_t i;

	for (i = 0; i < STREAMS; i++)
		stream_close(process->streams[i]);
	watch_close(&process->report);
	if (process->pidfd >= 0)
		close(process->pidfd);
	memset(process, 0, sizeof(*process));
}

static void refuse(struct process *process, const char *stage, int error, const char *text)
{
	if (!process->answered) {
		failed(&process->failure, stage, error, "", "%s", text);
		answer_failure(process->rid, &process->failure);
	}
	process->answered = process->failed = true;
}

/* One pipe and one connection; `theirs` is what the child gets. False with errno. */
static bool make_stream(struct process *process, int which, const uint8_t *token, int *theirs)
{
	int ends[2], outside;
	bool input = which == STREAM_IN;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	outside = connect_stream(token);
	if (outside < 0) {
		int error = errno;

		close(ends[0]);
		close(ends[1]);
		errno = error;
		return false;
	}
	*theirs = ends[input ? 0 : 1];
	process->streams[which] = stream_new(process, ends[input ? 1 : 0], outside, !input, input);
	return process->streams[which] != NULL;
}

static bool make_streams(struct process *process, struct span body, int stdio[3])
{
	static const uint16_t tags[] = {TAG_STDIN_TOKEN, TAG_STDOUT_TOKEN, TAG_STDERR_TOKEN};
	struct span token;
	int which;

	if (process->terminal) {
		if (!find_field(body, TAG_CONSOLE_TOKEN, &token) || token.size != TOKEN_BYTES) {
			errno = EINVAL;
			return false;
		}
		memcpy(process->console_token, token.data, TOKEN_BYTES);
		return true;
	}
	for (which = 0; which < STREAMS; which++)
		if (find_field(body, tags[which], &token) && token.size == TOKEN_BYTES &&
		    !make_stream(process, which, token.data, &stdio[which]))
			return false;
	return true;
}

static void open_console(struct process *process, int master)
{
	int outside = connect_stream(process->console_token);

	if (outside < 0) {
		refuse(process, "console", errno, "the host does not take the terminal's stream");
		kill(process->pid, SIGKILL);
		close(master);
		return;
	}
	process->streams[STREAM_OUT] = stream_new(process, master, outside, true, true);
}

static void closed_report(struct process *process)
{
	watch_close(&process->report);
	if (process->answered)
		return;
	process->answered = true;
	if (process->failed) {
		answer_failure(process->rid, &process->failure);
		return;
	}
	process->executed = true;
	answer_ok(process->rid, inner_pid(process->pid));
}

/* What the child says: a failure, its terminal, or (by its end) that it became the program. False when that was all. */
static bool read_report(struct process *process)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr head;
	} control;
	struct failure failure;
	struct iovec part = {&failure, sizeof(failure)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t size = recvmsg(process->report.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *passed;
	int fd;

	if (size < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (size <= 0) {
		closed_report(process);
		return false;
	}
	passed = CMSG_FIRSTHDR(&message);
	if (passed && passed->cmsg_type == SCM_RIGHTS && passed->cmsg_len == CMSG_LEN(sizeof(int))) {
		memcpy(&fd, CMSG_DATA(passed), sizeof(fd));
		open_console(process, fd);
	} else if (size == sizeof(failure)) {
		process->failure = failure;
		process->failed = true;
	}
	return true;
}

static void report_ready(struct watch *watch, uint32_t events)
{
	struct process *process = (struct process *)((char *)watch - offsetof(struct process, report));

	(void)events;
	while (process->report.fd >= 0 && read_report(process))
		;
}

static pid_t clone_first(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
}

/* A pid namespace is entered by cloning: the agent steps in for that moment, which counts for its children only. */
static pid_t fork_beside(const struct process *first)
{
	pid_t pid;

	if (own_pid_namespace < 0)
		own_pid_namespace = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (own_pid_namespace < 0 || setns(first->pidfd, CLONE_NEWPID) < 0)
		return -1;
	pid = fork();
	if (pid != 0)
		setns(own_pid_namespace, CLONE_NEWPID);
	return pid;
}

static bool spawn(struct process *process, struct plan *plan)
{
	struct process *first = first_process();
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return false;
	plan->report = ends[1];
	if (!plan->first)
		plan->namespaces = first->pidfd;
	process->pid = plan->first ? clone_first() : fork_beside(first);
	if (process->pid == 0)
		child_main(plan);
	close(ends[1]);
	if (process->pid < 0) {
		close(ends[0]);
		return false;
	}
	process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
	process->report.fd = ends[0];
	process->report.ready = report_ready;
	watch_set(&process->report, EPOLLIN);
	return true;
}

static struct process *new_process(int64_t number, uint32_t rid)
{
	size_t i;

	for (i = 0; i < MAX_PROCESSES; i++) {
		if (!processes[i].used) {
			processes[i].used = true;
			processes[i].number = number;
			processes[i].rid = rid;
			processes[i].report.fd = processes[i].pidfd = -1;
			return &processes[i];
		}
	}
	return NULL;
}

static void refuse_start(uint32_t rid, int error, const char *text)
{
	struct failure failure;

	failed(&failure, "exec", error, "", "%s", text);
	answer_failure(rid, &failure);
}

/* Start a process; the answer to `rid` comes when it has become its program, or could not. */
void process_start(int64_t number, uint32_t rid, struct span description, struct span body)
{
	struct process *first = first_process(), *process;
	struct plan plan = {.first = number == 0, .process = description, .body = body, .stdio = {-1, -1, -1},
			    .report = -1, .namespaces = -1};
	int which;

	if (process_find(number)) {
		refuse_start(rid, EEXIST, "this process exists already");
		return;
	}
	if (number && (!first || !first->executed || first->ended)) {
		refuse_start(rid, ESRCH, "the machine's first process does not run");
		return;
	}
	process = new_process(number, rid);
	if (!process) {
		refuse_start(rid, EAGAIN, "too many processes were started from outside");
		return;
	}
	plan.terminal = process->terminal = find_number(description, TAG_TERMINAL, 0) != 0;
	if (!make_streams(process, body, plan.stdio))
		refuse(process, "stdio", errno, "cannot connect the process's streams to the host");
	else if (!spawn(process, &plan))
		refuse(process, "clone", errno, lower_error(errno));
	for (which = 0; which < STREAMS; which++)
		if (plan.stdio[which] >= 0)
			close(plan.stdio[which]);
	if (process->pid <= 0)
		release(process);
}

static void ended(struct process *process, const siginfo_t *info)
{
	process->ended = true;
	process->signum = info->si_code == CLD_EXITED ? 0 : info->si_status;
	process->code = info->si_code == CLD_EXITED ? info->si_status : 128 + info->si_status;
	process->ended_at_ms = process->moved_at_ms = now_ms();
}

/* Take the ends of children: ours, and orphans of the guest's own namespace. */
void reap(void)
{
	for (;;) {
		siginfo_t info = {0};
		size_t i;

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || !info.si_pid)
			return;
		for (i = 0; i < MAX_PROCESSES; i++) {
			if (processes[i].used && processes[i].pid == info.si_pid) {
				report_ready(&processes[i].report, 0);
				ended(&processes[i], &info);
			}
		}
		waitid(P_PID, (id_t)info.si_pid, &info, WEXITED | WNOHANG | __WALL);
	}
}

static bool delivered(const struct process *process)
{
	bool drained = true, silent = true;
	int64_t quiet_ms = now_ms() - process->moved_at_ms;
	int which;

	for (which = 0; which < STREAMS; which++) {
		drained &= stream_drained(process->streams[which]);
		silent &= stream_silent(process->streams[which]);
	}
	return drained || (process->number && silent && quiet_ms >= SILENT_MS) ||
	       quiet_ms >= (process->number ? STALLED_MS : STALLED_FIRST_MS);
}

static bool all_closed(const struct process *process)
{
	return stream_drained(process->streams[STREAM_OUT]) && stream_drained(process->streams[STREAM_ERR]);
}

/* Tell the host of every process that has ended and whose output is on its way; true while some are left. */
bool tell_ends(void)
{
	bool left = false;
	size_t i;

	for (i = 0; i < MAX_PROCESSES; i++) {
		struct process *process = &processes[i];

		if (!process->used || !process->ended)
			continue;
		if (process->failed) {
			release(process);
			continue;
		}
		if (!process->told && delivered(process)) {
			process->told = true;
			send_event_exited(process->number, process->code, process->signum);
		}
		if (!process->told)
			left = true;
		else if (process->number && all_closed(process))
			release(process);
	}
	return left;
}

static int send_signal(pid_t pid, int signum)
{
	return kill(pid, signum) < 0 ? errno : 0;
}

static void signal_one(pid_t pid, void *context)
{
	kill(pid, *(int *)context);
}

int signal_everything(int signum)
{
	return each_inner_process(signal_one, &signum);
}

/* 0 or an errno. */
int process_signal(int64_t number, int signum, bool all)
{
	struct process *process = process_find(number);

	if (signum < 0 || signum > 64)
		return EINVAL;
	if (all)
		return signal_everything(signum);
	if (!process || process->ended || process->pid <= 0)
		return ESRCH;
	return send_signal(process->pid, signum);
}

int process_resize(int64_t number, int rows, int columns)
{
	struct process *process = process_find(number);
	struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
	int fd;

	if (!process)
		return ESRCH;
	fd = process->terminal ? stream_descriptor(process->streams[STREAM_OUT]) : -1;
	if (fd < 0)
		return ENOTTY;
	return ioctl(fd, TIOCSWINSZ, &size) < 0 ? errno : 0;
}

void kill_everything(void)
{
	struct process *first = first_process();

	if (getpid() == 1)
		kill(-1, SIGKILL);
	else if (first && !first->ended && first->pid > 0)
		kill(first->pid, SIGKILL);
}
