/*
 * Between fork and exec: the same steps, in the same order and with the same error texts, as bireme/runtime/init.py for
 * containers, so that a program that cannot be started reads alike on both banks.
 *
 * Whatever fails is sent on the report socket, which closes by itself when exec succeeds. Memory taken here is never
 * given back: exec does.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define CLOEXEC_RANGE 4

static int report_fd = -1;

const char *lower_error(int error)
{
	static char text[128];
	size_t i;

	snprintf(text, sizeof(text), "%s", strerror(error));
	for (i = 0; text[i]; i++)
		text[i] = (char)tolower((unsigned char)text[i]);
	return text;
}

void child_fail(const char *stage, int error, const char *subject, const char *format, ...)
{
	struct failure failure = {.error = error};
	va_list arguments;

	snprintf(failure.stage, sizeof(failure.stage), "%s", stage);
	snprintf(failure.subject, sizeof(failure.subject), "%s", subject);
	va_start(arguments, format);
	vsnprintf(failure.message, sizeof(failure.message), format, arguments);
	va_end(arguments);
	send(report_fd, &failure, sizeof(failure), MSG_NOSIGNAL);
	_exit(127);
}

/* A system call failed: "CALL SUBJECT: reason". */
void child_fail_call(const char *stage, const char *call, const char *subject)
{
	int error = errno;

	child_fail(stage, error, subject, "%s %s: %s", call, subject, lower_error(error));
}

static void reset_signals(void)
{
	sigset_t none;
	int number;

	for (number = 1; number < 65; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void send_master(int master)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr head;
	} control = {{0}};
	char byte = 'c';
	struct iovec part = {&byte, 1};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	struct cmsghdr *passed = CMSG_FIRSTHDR(&message);

	passed->cmsg_level = SOL_SOCKET;
	passed->cmsg_type = SCM_RIGHTS;
	passed->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(passed), &master, sizeof(master));
	if (sendmsg(report_fd, &message, MSG_NOSIGNAL) < 0)
		child_fail_call("console", "sendmsg", "terminal");
}

static void bind_console(int master)
{
	char path[32];
	unsigned number;
	int fd;

	if (ioctl(master, TIOCGPTN, &number) < 0)
		child_fail_call("console", "ioctl", "TIOCGPTN");
	snprintf(path, sizeof(path), "/dev/pts/%u", number);
	fd = open("/dev/console", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
	if (fd >= 0)
		close(fd);
	if (mount(path, "/dev/console", NULL, MS_BIND, NULL) < 0)
		child_fail_call("console", "mount", "/dev/console");
}

/* A terminal of the inside's own devpts; its master goes to the agent. */
static int open_terminal(struct span process, bool first)
{
	struct winsize size = {.ws_row = (unsigned short)find_number(process, TAG_ROWS, 0),
			       .ws_col = (unsigned short)find_number(process, TAG_COLUMNS, 0)};
	int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), slave, unlocked = 0;

	if (master < 0)
		child_fail_call("console", "open", "/dev/pts/ptmx");
	if (ioctl(master, TIOCSPTLCK, &unlocked) < 0)
		child_fail_call("console", "ioctl", "TIOCSPTLCK");
	slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (slave < 0)
		child_fail_call("console", "ioctl", "TIOCGPTPEER");
	if (size.ws_row || size.ws_col)
		ioctl(master, TIOCSWINSZ, &size);
	if (first)
		bind_console(master);
	send_master(master);
	close(master);
	if (ioctl(slave, TIOCSCTTY, 0) < 0)
		child_fail_call("console", "ioctl", "TIOCSCTTY");
	return slave;
}

static void enter_directory(struct span process, bool make)
{
	char *cwd = find_text(process, TAG_CWD);

	if (make)
		make_directories("cwd", cwd);
	if (chdir(cwd[0] ? cwd : "/") < 0)
		child_fail("cwd", errno, cwd, "chdir to cwd (\"%s\") set in config.json failed: %s", cwd,
			   lower_error(errno));
}

static int null_device(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		child_fail_call("stdio", "open", "/dev/null");
	return fd;
}

/* Descriptors 0 to 2, the report above them, everything else closed by exec; the user may reopen its own stdio. */
static void arrange(const int stdio[3], uid_t uid)
{
	int sources[3], i;

	report_fd = fcntl(report_fd, F_DUPFD_CLOEXEC, 3);
	for (i = 0; i < 3; i++)
		sources[i] = fcntl(stdio[i] >= 0 ? stdio[i] : null_device(), F_DUPFD_CLOEXEC, 3);
	for (i = 0; i < 3; i++) {
		if (dup2(sources[i], i) < 0)
			child_fail_call("stdio", "dup2", "stdio");
		if (uid && stdio[i] >= 0 && fchown(i, uid, (gid_t)-1) < 0 && errno != EROFS && errno != EINVAL)
			child_fail_call("stdio", "fchown", "stdio");
	}
	if (syscall(SYS_close_range, 3U, ~0U, CLOEXEC_RANGE) < 0)
		child_fail_call("stdio", "close_range", "3");
}

static void set_limits(struct span process)
{
	struct field field;

	while (next_field(&process, &field)) {
		struct rlimit limit;
		int number;

		if (field.tag != TAG_RLIMITS)
			continue;
		number = (int)find_number(field.value, TAG_NUMBER, -1);
		limit.rlim_cur = (rlim_t)find_number(field.value, TAG_SOFT, -1);
		limit.rlim_max = (rlim_t)find_number(field.value, TAG_HARD, -1);
		if (setrlimit((__rlimit_resource_t)number, &limit) < 0)
			child_fail("rlimits", errno, "", "error setting rlimit type %d: %s", number, lower_error(errno));
	}
}

static void set_oom_score(struct span process)
{
	int64_t value = find_number(process, TAG_OOM_SCORE_ADJ, INT64_MIN);
	int fd;

	if (value == INT64_MIN)
		return;
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || dprintf(fd, "%d", (int)value) < 0)
		child_fail_call("exec", "write", "/proc/self/oom_score_adj");
	close(fd);
}

static size_t key_length(const char *text)
{
	return strcspn(text, "=");
}

static char *join(const char *left, const char *right)
{
	char *text = NULL;

	if (asprintf(&text, "%s%s", left, right) < 0)
		abort();
	return text;
}

static char **find_variable(char **env, const char *text)
{
	size_t length = key_length(text);

	for (; *env; env++)
		if (key_length(*env) == length && !memcmp(*env, text, length))
			return env;
	return NULL;
}

/* A later definition wins; HOME is there. */
static char **environment(struct span process, const char *home)
{
	size_t count, used = 0, i;
	char **given = find_texts(process, TAG_ENV, &count), **env = calloc(count + 2, sizeof(*env)), **at;

	if (!env)
		abort();
	for (i = 0; i < count; i++) {
		if (!key_length(given[i]))
			continue;
		if (!strchr(given[i], '='))
			given[i] = join(given[i], "=");
		at = find_variable(env, given[i]);
		if (at)
			*at = given[i];
		else
			env[used++] = given[i];
	}
	at = find_variable(env, "HOME=");
	if (!at)
		at = &env[used];
	if (!*at || !(*at)[strlen("HOME=")])
		*at = join("HOME=", home[0] ? home : "/");
	return env;
}

/* 0, or why it cannot be executed. */
static int check_program(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return errno;
	if (S_ISDIR(status.st_mode))
		return EISDIR;
	if (!(status.st_mode & 0111) || access(path, X_OK) < 0)
		return EACCES;
	return 0;
}

static char *search_path(const char *name, const char *path)
{
	int first = 0;

	for (;;) {
		size_t length = strcspn(path, ":");
		char *candidate = NULL;
		int problem;

		if (asprintf(&candidate, "%.*s/%s", length ? (int)length : 1, length ? path : ".", name) < 0)
			abort();
		problem = check_program(candidate);
		if (!problem)
			return candidate;
		if (problem == EACCES)
			first = EACCES;
		free(candidate);
		if (!path[length])
			break;
		path += length + 1;
	}
	if (first)
		child_fail("exec", EACCES, name, "exec: \"%s\": permission denied", name);
	child_fail("exec", ENOENT, name, "exec: \"%s\": executable file not found in $PATH", name);
}

static char *find_program(char *name, char **env)
{
	char **path = find_variable(env, "PATH=");
	int problem;

	if (!strchr(name, '/'))
		return search_path(name, path ? *path + strlen("PATH=") : DEFAULT_PATH);
	problem = check_program(name);
	if (problem == ENOENT || problem == ENOTDIR)
		child_fail("exec", problem, name, "exec: \"%s\": stat %s: %s", name, name, lower_error(problem));
	if (problem)
		child_fail("exec", problem, name, "exec: \"%s\": %s", name, lower_error(problem));
	return name;
}

static void execute(const struct plan *plan, const struct identity *who, const int stdio[3])
{
	size_t count;
	char **args = find_texts(plan->process, TAG_ARGS, &count), **env, *program;

	if (!count)
		child_fail("exec", EINVAL, "args", "no command specified");
	arrange(stdio, who->uid);
	umask((mode_t)find_number(plan->process, TAG_UMASK, 022) & 0777);
	set_limits(plan->process);
	set_oom_score(plan->process);
	env = environment(plan->process, who->home);
	take_identity(who, plan->process);
	program = find_program(args[0], env);
	if (find_number(plan->process, TAG_NO_NEW_PRIVILEGES, 0) && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		child_fail_call("capabilities", "prctl", "PR_SET_NO_NEW_PRIVS");
	give_up(plan->process);
	execve(program, args, env);
	child_fail("exec", errno, program, "exec %s: %s", program, lower_error(errno));
}

static void enter_namespaces(int pidfd)
{
	if (setns(pidfd, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS) < 0)
		child_fail_call("namespaces", "setns", "the machine's namespaces");
}

void child_main(const struct plan *plan)
{
	struct identity who = {0};
	int stdio[3], slave;

	report_fd = plan->report;
	memcpy(stdio, plan->stdio, sizeof(stdio));
	setsid();
	reset_signals();
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	if (plan->first)
		make_inside(plan->body);
	else
		enter_namespaces(plan->namespaces);
	if (plan->terminal) {
		slave = open_terminal(plan->process, plan->first);
		stdio[0] = stdio[1] = stdio[2] = slave;
	}
	resolve_identity(plan->process, &who);
	enter_directory(plan->process, plan->first);
	if (plan->first)
		seal_root(plan->body);
	execute(plan, &who, stdio);
	_exit(127);
}
