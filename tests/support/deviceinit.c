/* The first process of a machine that the device tests start: loads the modules of /modules/order, uses every device
 * that is there, and says what it saw: one line "device NAME key=value...". Then it powers the machine off. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, PAGE = 4096 };

static char *buffer;

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec + at.tv_nsec / 1e9;
}

static long number(const char *name, long otherwise)
{
	const char *text = getenv(name);

	return text ? atol(text) : otherwise;
}

static void load_modules(void)
{
	char name[256], path[300];
	FILE *order = fopen("/modules/order", "r");

	while (order && fgets(name, sizeof(name), order)) {
		name[strcspn(name, "\n")] = 0;
		snprintf(path, sizeof(path), "/modules/%s", name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
			printf("device module %s: %s\n", name, strerror(errno));
		close(fd);
	}
}

static int wait_for(const char *path)
{
	for (int tries = 0; tries < 500; tries++) {
		int fd = open(path, O_RDWR | O_CLOEXEC | O_DIRECT);
		if (fd < 0 && errno != ENOENT && errno != ENXIO)
			fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
		if (fd >= 0)
			return fd;
		usleep(10000);
	}
	return -1;
}

static void file_word(const char *path, char *word, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t got = fd < 0 ? 0 : read(fd, word, size - 1);

	word[got < 0 ? 0 : got] = 0;
	word[strcspn(word, "\n")] = 0;
	if (fd >= 0)
		close(fd);
}

/* A disk: pattern there and back, what its ends say, how fast it is. */
static void disk(const char *name)
{
	char path[64], serial[64];
	unsigned long long size = 0, range[2];
	long total = number("disk_mib", 32), reads = number("disk_reads", 200), bad = 0;
	int read_only = 0;

	snprintf(path, sizeof(path), "/dev/%s", name);
	int fd = wait_for(path);
	if (fd < 0)
		return;
	ioctl(fd, BLKGETSIZE64, &size);
	ioctl(fd, BLKROGET, &read_only);
	snprintf(path, sizeof(path), "/sys/block/%s/serial", name);
	file_word(path, serial, sizeof(serial));
	printf("device %s size=%llu serial=%s ro=%d first=%02x", name, size, serial, read_only,
	       pread(fd, buffer, PAGE, 0) == PAGE ? (unsigned char)buffer[0] : 0);
	printf(" past=%zd", pread(fd, buffer, PAGE, size));
	if (!read_only) {
		double began = now();
		for (long at = 0; at < total; at++) {
			memset(buffer, at + 1, MIB);
			bad += pwrite(fd, buffer, MIB, at * MIB) != MIB;
		}
		printf(" synced=%d write_mib_s=%.0f", fsync(fd), total / (now() - began));
		range[0] = 2 * MIB, range[1] = MIB;
		printf(" discard=%d", ioctl(fd, BLKDISCARD, range));
		range[0] = 3 * MIB;
		printf(" zeroes=%d", ioctl(fd, BLKZEROOUT, range));
		for (long at = 0; at < total; at++) {
			bad += pread(fd, buffer, MIB, at * MIB) != MIB;
			for (long n = 0; n < MIB && !(at == 2 || at == 3); n += 511)
				bad += buffer[n] != (char)(at + 1);
			for (long n = 0; n < MIB && (at == 2 || at == 3); n += 511)
				bad += buffer[n] != 0;
		}
	}
	double began = now();
	for (long at = 0; at < total; at++)
		bad += pread(fd, buffer, MIB, at * MIB % size) != MIB;
	printf(" read_mib_s=%.0f", total / (now() - began));
	began = now();
	for (long at = 0; at < reads; at++)
		bad += pread(fd, buffer, PAGE, at * 7919 * PAGE % (size - PAGE) / PAGE * PAGE) != PAGE;
	printf(" read_4k_us=%.0f bad=%ld\n", (now() - began) / reads * 1e6, bad);
	close(fd);
}

static void generator(void)
{
	unsigned char bytes[64];
	int fd = open("/dev/hwrng", O_RDONLY);
	ssize_t got = fd < 0 ? -1 : read(fd, bytes, sizeof(bytes));
	int zeros = 0;

	for (ssize_t at = 0; at < got; at++)
		zeros += !bytes[at];
	if (fd >= 0)
		printf("device rng got=%zd random=%d\n", got, zeros < 8);
}

static void console(void)
{
	int fd = open("/dev/hvc0", O_RDWR | O_NOCTTY);
	ssize_t put = fd < 0 ? -1 : write(fd, "hello from hvc0\n", 16);

	if (fd >= 0)
		printf("device console put=%zd\n", put);
}

static int configure(const char *address)
{
	struct ifreq request = { .ifr_name = "eth0" };
	struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	in->sin_family = AF_INET;
	inet_pton(AF_INET, address, &in->sin_addr);
	if (ioctl(fd, SIOCSIFADDR, &request))
		return -1;
	inet_pton(AF_INET, "255.255.255.0", &in->sin_addr);
	ioctl(fd, SIOCSIFNETMASK, &request);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	return ioctl(fd, SIOCSIFFLAGS, &request);
}

/* The other end counts what it gets and then sends as much; first there are `net_pings` bytes back and forth. */
static void network(void)
{
	const char *peer = getenv("peer");
	long total = number("net_mib", 16), pings = number("net_pings", 100), left;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(number("port", 5000)) };
	int fd, tries = 0;

	if (!peer || configure("10.99.0.2"))
		return;
	inet_pton(AF_INET, peer, &to.sin_addr);
	do {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (!connect(fd, (struct sockaddr *)&to, sizeof(to)))
			break;
		close(fd);
		usleep(50000);
	} while (++tries < 100);
	double began = now();
	for (long at = 0; at < pings; at++)
		if (write(fd, "p", 1) != 1 || read(fd, buffer, 1) != 1)
			break;
	double echoed = now();
	for (left = total; left > 0 && write(fd, buffer, MIB) == MIB; left--)
		;
	shutdown(fd, SHUT_WR);
	if (read(fd, buffer, 1) != 1)
		printf("device net unanswered\n");
	double sent = now();
	long received = 0;
	ssize_t part;
	while ((part = read(fd, buffer, MIB)) > 0)
		received += part;
	printf("device net ping_us=%.0f sent=%ld send_mib_s=%.0f received=%ld receive_mib_s=%.0f\n",
	       (echoed - began) / pings * 1e6, total - left, total / (sent - echoed), received,
	       received / (now() - sent) / MIB);
}

int main(void)
{
	buffer = aligned_alloc(PAGE, MIB);
	mkdir("/sys", 0755);
	mount("dev", "/dev", "devtmpfs", 0, "");
	mount("sys", "/sys", "sysfs", 0, "");
	load_modules();
	disk("vda");
	disk("vdb");
	generator();
	console();
	network();
	printf("device end\n");
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
