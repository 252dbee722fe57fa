/*
 * bireme-init: process 1 of a container that was started with --init.
 *
 * A program that is process 1 has two duties it usually does not know of: children whose parents died are given to it
 * and must be reaped, and signals without a handler are ignored for it (so SIGTERM does nothing). This one starts the
 * program as its child, passes every signal on, reaps whatever ends, and ends with the child's status (128 + signal
 * when a signal killed it); the kernel then ends what is left in the pid namespace.
 *
 *     bireme-init [--] PROGRAM [ARGUMENT...]
 *
 * The child gets its own process group, in the foreground when stdin is our terminal, so that Ctrl-C reaches it once.
 * Exit codes of our own: 125 wrong usage or no process, 126 and 127 the program cannot be executed or found.
 *
 * Static, no allocation, no threads: it runs in images that have no C library at all.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const int never_blocked[] = {SIGFPE, SIGILL, SIGSEGV, SIGBUS, SIGABRT, SIGTRAP, SIGSYS};

static void complain(const char *format, ...)
{
	char text[512];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(text, sizeof(text) - 1, format, arguments);
	va_end(arguments);
	if (length > (int)sizeof(text) - 2)
		length = sizeof(text) - 2;
	text[length] = '\n';
	if (write(STDERR_FILENO, text, length + 1) < 0)
		return;
}

static void run(char **argv, const sigset_t *mask)
{
	int code;

	if (setpgid(0, 0) == 0 && tcsetpgrp(STDIN_FILENO, getpid()) < 0 && errno != ENOTTY && errno != ENXIO &&
	    errno != EBADF && errno != ENOTSUP)
		complain("bireme-init: cannot take the terminal: %s", strerror(errno));
	signal(SIGTTOU, SIG_DFL);
	signal(SIGTTIN, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	execvp(argv[0], argv);
	code = errno == ENOENT || errno == ENOTDIR ? 127 : 126;
	complain("bireme-init: exec %s: %s", argv[0], strerror(errno));
	_exit(code);
}

/* Reap everything that has ended; the status of `child` goes to *status. 1 when it was among them, -1 without children. */
static int reap(pid_t child, int *status)
{
	int ended = 0;

	for (;;) {
		int one;
		pid_t pid = waitpid(-1, &one, WNOHANG);

		if (pid == 0)
			return ended;
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0)
			return ended ? ended : -1;
		if (pid == child) {
			*status = one;
			ended = 1;
		}
	}
}

static int supervise(pid_t child, const sigset_t *set)
{
	for (;;) {
		siginfo_t info;
		int status, signum = sigwaitinfo(set, &info);

		if (signum < 0)
			continue;
		if (signum != SIGCHLD) {
			kill(child, signum);
			continue;
		}
		switch (reap(child, &status)) {
		case 1:
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		case -1:
			return 125;
		}
	}
}

int main(int argc, char **argv)
{
	sigset_t set, before;
	size_t i;
	pid_t child;

	if (argc > 1 && strcmp(argv[1], "--") == 0) {
		argv++;
		argc--;
	} else if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("bireme-init 1");
		return 0;
	}
	if (argc < 2) {
		complain("usage: bireme-init [--] PROGRAM [ARGUMENT...]");
		return 125;
	}
	if (getpid() != 1 && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		complain("bireme-init: not process 1, orphans go elsewhere: %s", strerror(errno));
	sigfillset(&set);
	for (i = 0; i < sizeof(never_blocked) / sizeof(never_blocked[0]); i++)
		sigdelset(&set, never_blocked[i]);
	sigprocmask(SIG_SETMASK, &set, &before);
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	child = fork();
	if (child < 0) {
		complain("bireme-init: fork: %s", strerror(errno));
		return 125;
	}
	if (child == 0)
		run(argv + 1, &before);
	return supervise(child, &set);
}
