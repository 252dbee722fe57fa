/*
 * The first and the last moments: file systems the kernel provides, modules, entropy, the clock, the power.
 *
 * What fails here is said on /dev/kmsg (the host's console), and the boot goes on: a module that is missing shows when
 * something needs it, and that failure has a better text.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define CLOCK_SLACK_NS 20000000

static const struct {
	const char *target, *type, *data;
	unsigned long flags;
} mounts[] = {
	{"/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	{"/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
	{"/dev", "devtmpfs", "mode=755", MS_NOSUID},
};

static void open_stdio(void)
{
	int fd = open("/dev/null", O_RDWR);

	if (fd < 0)
		return;
	for (int number = 0; number < 3; number++)
		if (fd != number && fcntl(number, F_GETFD) < 0)
			dup2(fd, number);
	if (fd > 2)
		close(fd);
}

void boot_mounts(void)
{
	size_t i;

	for (i = 0; i < LENGTH(mounts); i++) {
		mkdir(mounts[i].target, 0755);
		if (mount(mounts[i].type, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].data) < 0 &&
		    errno != EBUSY)
			note("mount %s: %s", mounts[i].target, strerror(errno));
	}
	open_stdio();
}

static void load_module(const char *name)
{
	char path[TEXT_BYTES + 16];
	int fd;

	while (*name == '/')
		name++;
	snprintf(path, sizeof(path), "%s%s", strncmp(name, "modules/", 8) ? "/modules/" : "/", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		note("module %s: %s", path, strerror(errno));
		return;
	}
	if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && errno != ENODEV)
		note("module %s: %s", path, strerror(errno));
	close(fd);
}

/* The modules of /modules/order, one a line. */
void load_modules(void)
{
	FILE *order = fopen("/modules/order", "re");
	char line[TEXT_BYTES];

	if (!order)
		return;
	while (fgets(line, sizeof(line), order)) {
		line[strcspn(line, "\r\n")] = 0;
		if (line[0] && line[0] != '#')
			load_module(line);
	}
	fclose(order);
}

void set_clock(int64_t clock_ns)
{
	struct timespec now, wanted = {.tv_sec = clock_ns / 1000000000, .tv_nsec = clock_ns % 1000000000};
	int64_t off;

	if (options.trial || clock_ns <= 0)
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	off = ((int64_t)now.tv_sec - wanted.tv_sec) * 1000000000 + now.tv_nsec - wanted.tv_nsec;
	if ((off > CLOCK_SLACK_NS || off < -CLOCK_SLACK_NS) && clock_settime(CLOCK_REALTIME, &wanted) < 0)
		note("clock: %s", strerror(errno));
}

/* Random bytes from the host count as entropy: the first program inside must not wait for some, nor get along without. */
void add_entropy(struct span entropy)
{
	struct {
		struct rand_pool_info head;
		uint8_t bytes[256];
	} pool;
	int fd;

	if (options.trial || !entropy.size)
		return;
	if (entropy.size > sizeof(pool.bytes))
		entropy.size = sizeof(pool.bytes);
	fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	pool.head.entropy_count = (int)entropy.size * 8;
	pool.head.buf_size = (int)entropy.size;
	memcpy((uint8_t *)&pool + offsetof(struct rand_pool_info, buf), entropy.data, entropy.size);
	if (ioctl(fd, RNDADDENTROPY, &pool) < 0)
		note("entropy: %s", strerror(errno));
	close(fd);
}

/* Off through ACPI; where the kernel cannot, a reset (the VMM ends a machine that resets itself). */
void power_off(void)
{
	if (options.trial)
		exit(0);
	sync();
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}
