/* The first process of a machine that the boot tests start: says what it sees, then ends the machine as `end=` says.
 * The kernel hands unknown words of its command line to the first process as environment. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	const char *end = getenv("end");
	struct utsname name;
	struct sysinfo info;
	struct timespec up;
	cpu_set_t cpus;

	if (!end)
		end = "off";
	uname(&name);
	sysinfo(&info);
	sched_getaffinity(0, sizeof(cpus), &cpus);
	clock_gettime(CLOCK_BOOTTIME, &up);
	printf("guest release=%s cpus=%d memory=%lu end=%s year=%ld up_ms=%ld\n", name.release, CPU_COUNT(&cpus),
	       info.totalram / (1 << 20), end, 1970 + time(NULL) / 31556952,
	       (long)(up.tv_sec * 1000 + up.tv_nsec / 1000000));
	fflush(stdout);
	if (!strcmp(end, "panic"))
		return 0;
	if (!strcmp(end, "restart"))
		reboot(RB_AUTOBOOT);
	if (!strcmp(end, "number") && !iopl(3))
		outb(CPU_COUNT(&cpus), 0xf4);
	if (!strcmp(end, "spin"))
		for (;;)
			;
	sync();
	reboot(RB_POWER_OFF);
	return 1;
}
