/* The first process of a machine that is measured: loads the modules of /modules/order, then does what bench=... of the
 * kernel command line says and reports as "@name value" lines on the console.
 *
 *   boot    nothing more
 *   exits   how long a port read takes that user space answers, alone and beside a saturated disk queue (ns); one
 *           processor, where the reader comes first whenever it wakes, so that the guest's scheduler has no part in it
 *   block   sequential and random reads and writes of /dev/vda without the page cache
 *   net     bytes to and from 10.77.0.1 over eth0
 *   idle    nothing, for ever
 *
 * Port 0xf4 ends the machine (isa-debug-exit).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define DISK_BYTES (64L << 20)
#define SCRATCH_PORT 0x3ff /* the scratch register of the first serial port */
#define EXIT_PORT 0xf4
#define EXITS 2000
#define WARM 100
#define PAUSE_US 300
#define LOADERS 8

/* Ports through the kernel: permission to use them oneself does not survive a sleep in every emulator. */
static int ports;

static void say(const char *name, double value)
{
	printf("@%s %.0f\n", name, value);
	fflush(stdout);
}

static double now_s(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static inline uint64_t ticks(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static void load_modules(void)
{
	char name[200], path[260];
	FILE *order = fopen("/modules/order", "r");

	while (order && fscanf(order, "%199s", name) == 1) {
		snprintf(path, sizeof(path), "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);

		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
			perror(name);
		close(fd);
	}
	if (order)
		fclose(order);
}

static int by_value(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

static void time_exits(const char *when)
{
	static uint64_t taken[EXITS];
	char name[40];
	double begin_s = now_s();
	uint64_t begin = ticks();

	for (int n = -WARM; n < EXITS; n++) {
		char byte;

		usleep(PAUSE_US);
		uint64_t before = ticks();

		if (pread(ports, &byte, 1, SCRATCH_PORT) != 1)
			perror("/dev/port");
		if (n >= 0)
			taken[n] = ticks() - before;
	}
	double ns = (now_s() - begin_s) * 1e9 / (double)(ticks() - begin);

	qsort(taken, EXITS, sizeof(taken[0]), by_value);
	snprintf(name, sizeof(name), "exit_p50_%s", when);
	say(name, taken[EXITS / 2] * ns);
	snprintf(name, sizeof(name), "exit_p99_%s", when);
	say(name, taken[EXITS * 99 / 100] * ns);
}

static int open_disk(int flags)
{
	for (int tries = 0; tries < 200; tries++) {
		int fd = open(DISK, flags | O_DIRECT | O_CLOEXEC);

		if (fd >= 0)
			return fd;
		usleep(10000);
	}
	perror(DISK);
	return -1;
}

/* Blocks of `size` bytes at random or one after the other, until time or the disk is over; how many. */
static long transfer(int fd, size_t size, int random, int writing, double seconds)
{
	void *block;
	long count = 0;
	unsigned seed = getpid();
	double end = now_s() + seconds;

	if (posix_memalign(&block, 4096, size))
		return 0;
	memset(block, 0x5a, size);
	while (now_s() < end) {
		off_t at = random ? (off_t)(rand_r(&seed) % (DISK_BYTES / size)) * size : (off_t)count * size % DISK_BYTES;
		ssize_t got = writing ? pwrite(fd, block, size, at) : pread(fd, block, size, at);

		if (got != (ssize_t)size) {
			perror("transfer");
			break;
		}
		count++;
	}
	free(block);
	return count;
}

static void saturate(pid_t *loaders)
{
	for (int n = 0; n < LOADERS; n++) {
		loaders[n] = fork();
		if (!loaders[n]) {
			transfer(open_disk(O_RDONLY), 4096, 1, 0, 1e6);
			_exit(0);
		}
	}
}

static void comes_first(int on)
{
	struct sched_param param = {.sched_priority = on ? 50 : 0};

	if (sched_setscheduler(0, on ? SCHED_FIFO : SCHED_OTHER, &param))
		perror("sched_setscheduler");
}

static void measure_exits(void)
{
	pid_t loaders[LOADERS];

	comes_first(1);
	time_exits("idle");
	comes_first(0);
	saturate(loaders);
	sleep(1);
	comes_first(1);
	time_exits("loaded");
	for (int n = 0; n < LOADERS; n++)
		kill(loaders[n], SIGKILL);
	comes_first(0);
	while (wait(NULL) > 0)
		;
}

static long random_reads(double seconds)
{
	long total = 0;
	int pipes[2];

	if (pipe(pipes))
		return 0;
	for (int n = 0; n < LOADERS; n++)
		if (!fork()) {
			long count = transfer(open_disk(O_RDONLY), 4096, 1, 0, seconds);

			if (write(pipes[1], &count, sizeof(count)) < 0)
				_exit(1);
			_exit(0);
		}
	for (int n = 0; n < LOADERS; n++) {
		long count = 0;

		if (read(pipes[0], &count, sizeof(count)) > 0)
			total += count;
	}
	while (wait(NULL) > 0)
		;
	return total;
}

static void measure_block(void)
{
	int fd = open_disk(O_RDWR);
	size_t large = 128 << 10;

	say("block_read_KiB_per_s", transfer(fd, large, 0, 0, 3) * 128 / 3.0);
	say("block_write_KiB_per_s", transfer(fd, large, 0, 1, 3) * 128 / 3.0);
	say("block_random_reads_per_s", random_reads(3) / 3.0);
	say("block_one_read_ns", 2e9 / (double)(transfer(fd, 4096, 1, 0, 2) + 1));
}

static void configure(const char *interface, const char *address)
{
	struct ifreq request = {0};
	struct sockaddr_in *where = (struct sockaddr_in *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	strcpy(request.ifr_name, interface);
	where->sin_family = AF_INET;
	inet_pton(AF_INET, address, &where->sin_addr);
	if (ioctl(fd, SIOCSIFADDR, &request))
		perror("SIOCSIFADDR");
	inet_pton(AF_INET, "255.255.255.0", &where->sin_addr);
	ioctl(fd, SIOCSIFNETMASK, &request);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(fd, SIOCSIFFLAGS, &request))
		perror("SIOCSIFFLAGS");
	close(fd);
}

static int reach(int port)
{
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port)};

	inet_pton(AF_INET, "10.77.0.1", &peer.sin_addr);
	for (int tries = 0; tries < 100; tries++) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (!connect(fd, (struct sockaddr *)&peer, sizeof(peer)))
			return fd;
		close(fd);
		usleep(20000);
	}
	perror("connect");
	return -1;
}

/* The host counts and times; each direction ends when it closes. */
static void measure_net(void)
{
	static char block[256 << 10];
	int fd;

	signal(SIGPIPE, SIG_IGN);
	configure("eth0", "10.77.0.2");
	fd = reach(5001);
	while (fd >= 0 && send(fd, block, sizeof(block), 0) > 0)
		;
	close(fd);
	fd = reach(5002);
	while (fd >= 0 && recv(fd, block, sizeof(block), 0) > 0)
		;
	close(fd);
}

int main(void)
{
	const char *what = getenv("bench");

	if (!what)
		what = "boot";
	say("hello", 1);
	mount("devtmpfs", "/dev", "devtmpfs", 0, "");
	load_modules();
	ports = open("/dev/port", O_RDWR | O_CLOEXEC);
	say("ready", 1);
	if (!strcmp(what, "exits"))
		measure_exits();
	else if (!strcmp(what, "block"))
		measure_block();
	else if (!strcmp(what, "net"))
		measure_net();
	else if (!strcmp(what, "idle"))
		for (;;)
			pause();
	say("done", 1);
	tcdrain(STDOUT_FILENO);
	if (pwrite(ports, "", 1, EXIT_PORT) != 1 && !iopl(3))
		outb(0, EXIT_PORT);
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}
