/*
 * What runs inside, and how much of the machine it uses, read from /proc. Process numbers are those of the inside: the
 * agent and whatever else runs outside of the first process's namespace is not told.
 */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define COMMAND_BYTES 1024
#define TRUNCATED_ROOM 64

struct facts {
	pid_t pid, ppid;
	int64_t uid;
	unsigned tty;
	unsigned long long ticks, started_ticks;
	char name[64];
};

static ssize_t slurp(pid_t pid, const char *name, char *text, size_t room)
{
	char path[64];
	ssize_t size;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	size = read(fd, text, room - 1);
	close(fd);
	if (size >= 0)
		text[size] = 0;
	return size;
}

/* The last of the numbers behind NSpid: the innermost namespace's; 0 when there is one level only. */
static pid_t innermost(const char *status)
{
	const char *at = strstr(status, "\nNSpid:");
	long value = 0;
	int levels = 0, used;

	if (!at)
		return 0;
	at += strlen("\nNSpid:");
	while (sscanf(at, "%ld%n", &value, &used) == 1) {
		levels++;
		at += used;
		if (*at == '\n')
			break;
	}
	return levels > 1 ? (pid_t)value : 0;
}

/* The number a process has inside, 0 when it is not inside. */
pid_t inner_pid(pid_t pid)
{
	char status[4096];

	return slurp(pid, "status", status, sizeof(status)) < 0 ? 0 : innermost(status);
}

/* Call for every process inside, by its outer number; 0 or an errno. */
int each_inner_process(void (*call)(pid_t pid, void *context), void *context)
{
	DIR *directory = opendir("/proc");
	struct dirent *entry;

	if (!directory)
		return errno;
	while ((entry = readdir(directory)) != NULL) {
		pid_t pid = isdigit((unsigned char)entry->d_name[0]) ? (pid_t)atoi(entry->d_name) : 0;

		if (pid > 1 && inner_pid(pid))
			call(pid, context);
	}
	closedir(directory);
	return 0;
}

static bool read_facts(pid_t pid, struct facts *facts)
{
	char text[4096], *at, *end;
	unsigned long long user, system;
	int parent;

	if (slurp(pid, "status", text, sizeof(text)) < 0 || !(facts->pid = innermost(text)))
		return false;
	at = strstr(text, "\nUid:");
	facts->uid = at ? atoll(at + strlen("\nUid:")) : 0;
	if (slurp(pid, "stat", text, sizeof(text)) < 0 || !(at = strchr(text, '(')) || !(end = strrchr(text, ')')))
		return false;
	*end = 0;
	snprintf(facts->name, sizeof(facts->name), "[%s]", at + 1);
	if (sscanf(end + 2, "%*c %d %*d %*d %u %*d %*u %*u %*u %*u %*u %llu %llu %*d %*d %*d %*d %*d %*d %llu", &parent,
		   &facts->tty, &user, &system, &facts->started_ticks) != 5)
		return false;
	facts->ticks = user + system;
	facts->ppid = inner_pid(parent);
	return true;
}

static void command_line(pid_t pid, const struct facts *facts, char *text, size_t room)
{
	ssize_t size = slurp(pid, "cmdline", text, room), i;

	while (size > 0 && !text[size - 1])
		size--;
	if (size <= 0) {
		snprintf(text, room, "%s", facts->name);
		return;
	}
	for (i = 0; i < size; i++)
		if ((unsigned char)text[i] < 32)
			text[i] = ' ';
}

static int64_t ticks_to_ns(unsigned long long ticks)
{
	return (int64_t)(ticks * (1000000000ULL / (unsigned long long)sysconf(_SC_CLK_TCK)));
}

/* When the machine started, by the wall clock. */
static int64_t started_ns(void)
{
	struct timespec now, up;

	clock_gettime(CLOCK_REALTIME, &now);
	clock_gettime(CLOCK_BOOTTIME, &up);
	return ((int64_t)now.tv_sec - up.tv_sec) * 1000000000 + now.tv_nsec - up.tv_nsec;
}

static void terminal_name(unsigned tty, char *text, size_t room)
{
	unsigned major = tty >> 8 & 0xfff, minor = (tty & 0xff) | (tty >> 12 & 0xfff00);

	text[0] = 0;
	if (major >= 136 && major <= 143)
		snprintf(text, room, "pts/%u", minor + (major - 136) * 256);
}

static void report_one(pid_t pid, void *context)
{
	struct message *message = context;
	struct facts facts;
	char command[COMMAND_BYTES], tty[32];
	size_t mark;

	if (message->full || !read_facts(pid, &facts))
		return;
	command_line(pid, &facts, command, sizeof(command));
	terminal_name(facts.tty, tty, sizeof(tty));
	mark = put_group(message, TAG_PROCESSES);
	put_number(message, TAG_PID, facts.pid);
	put_number(message, TAG_PPID, facts.ppid);
	put_number(message, TAG_UID, facts.uid);
	put_text(message, TAG_COMMAND, command);
	put_number(message, TAG_STARTED_AT_NS, started_ns() + ticks_to_ns(facts.started_ticks));
	put_number(message, TAG_CPU_NS, ticks_to_ns(facts.ticks));
	put_text(message, TAG_TTY, tty);
	end_group(message, mark);
}

/* All processes inside, as many as fit. */
void report_processes(struct message *message)
{
	bool truncated;

	message->capacity -= TRUNCATED_ROOM;
	each_inner_process(report_one, message);
	message->capacity += TRUNCATED_ROOM;
	truncated = message->full;
	message->full = false;
	put_number(message, TAG_TRUNCATED, truncated);
}

static void count_one(pid_t pid, void *context)
{
	(void)pid;
	++*(int64_t *)context;
}

static int64_t memory_row(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? atoll(at + strlen(name)) * 1024 : 0;
}

static void report_memory(struct message *message)
{
	char text[4096];
	int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[size > 0 ? size : 0] = 0;
	put_number(message, TAG_MEMORY_TOTAL_BYTES, memory_row(text, "MemTotal:"));
	put_number(message, TAG_MEMORY_AVAILABLE_BYTES, memory_row(text, "MemAvailable:"));
	put_number(message, TAG_MEMORY_CACHED_BYTES, memory_row(text, "\nCached:"));
}

static void report_cpu(struct message *message)
{
	unsigned long long user = 0, nice = 0, system = 0;
	FILE *file = fopen("/proc/stat", "re");

	if (!file || fscanf(file, "cpu %llu %llu %llu", &user, &nice, &system) != 3)
		user = nice = system = 0;
	if (file)
		fclose(file);
	put_number(message, TAG_CPU_USER_NS, ticks_to_ns(user + nice));
	put_number(message, TAG_CPU_SYSTEM_NS, ticks_to_ns(system));
}

void report_stats(struct message *message)
{
	struct statvfs disk = {0};
	int64_t pids = 0;

	each_inner_process(count_one, &pids);
	put_number(message, TAG_PIDS, pids);
	report_memory(message);
	report_cpu(message);
	if (statvfs(upper_path(), &disk) < 0)
		disk.f_blocks = disk.f_bavail = 0;
	put_number(message, TAG_DISK_TOTAL_BYTES, (int64_t)(disk.f_blocks * disk.f_frsize));
	put_number(message, TAG_DISK_FREE_BYTES, (int64_t)(disk.f_bavail * disk.f_frsize));
}
