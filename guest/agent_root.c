/*
 * The root file system: read-only disks as overlay's lowers, a writable disk above them.
 *
 *     BASE           a tmpfs of the agent's own
 *     BASE/l0..lN    lowers, topmost first              BASE/u/{upper,work}   on the writable disk, or in memory
 *     BASE/files/N   the small files laid over /etc     BASE/root             the overlay; the child makes it its "/"
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define DEVICE_WAIT_MS 10000
#define MAX_LOWERS 64

#define PATH_ROOM 160
#define BELOW_ROOM (PATH_ROOM + 32)

static char base[PATH_ROOM], root[BELOW_ROOM], files[BELOW_ROOM], upper[BELOW_ROOM];

const char *root_path(void)
{
	return root;
}

const char *files_path(void)
{
	return files;
}

const char *upper_path(void)
{
	return upper;
}

bool make_base(struct failure *failure)
{
	if (options.trial) {
		snprintf(base, sizeof(base), "%.*s.XXXXXX", PATH_ROOM - 16, options.socket);
		if (!mkdtemp(base))
			return failed(failure, "boot", errno, base, "mkdir %s: %s", base, lower_error(errno));
	} else {
		snprintf(base, sizeof(base), "/bireme");
		mkdir(base, 0700);
	}
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return failed(failure, "boot", errno, "/", "mount /: %s", lower_error(errno));
	if (mount("bireme", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=700,size=64m") < 0)
		return failed(failure, "boot", errno, base, "mount %s: %s", base, lower_error(errno));
	snprintf(root, sizeof(root), "%s/root", base);
	snprintf(files, sizeof(files), "%s/files", base);
	snprintf(upper, sizeof(upper), "%s/u", base);
	if (mkdir(root, 0755) < 0 || mkdir(files, 0755) < 0 || mkdir(upper, 0755) < 0)
		return failed(failure, "boot", errno, base, "mkdir below %s: %s", base, lower_error(errno));
	return true;
}

/* Virtual disks appear when their driver has probed them, some milliseconds after its module was loaded. */
static bool wait_device(const char *device)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	int64_t until = now_ms() + DEVICE_WAIT_MS;

	while (access(device, F_OK) < 0) {
		if (now_ms() > until)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static bool mount_disk(struct span disk, const char *target, unsigned long flags, struct failure *failure)
{
	char *device = find_text(disk, TAG_DEVICE), *type = find_text(disk, TAG_TYPE);

	mkdir(target, 0755);
	if (!wait_device(device))
		return failed(failure, "disk", ENODEV, device, "no such disk: %s", device);
	if (mount(device, target, type, flags | MS_NOATIME, NULL) < 0)
		return failed(failure, "disk", errno, device, "mount %s as %s: %s", device, type, lower_error(errno));
	free(device);
	free(type);
	return true;
}

static bool mount_lowers(struct span description, char *list, size_t room, struct failure *failure)
{
	struct field field;
	size_t count = 0, used = 0;

	while (next_field(&description, &field)) {
		char target[BELOW_ROOM];

		if (field.tag != TAG_LOWER)
			continue;
		if (count == MAX_LOWERS)
			return failed(failure, "disk", E2BIG, "", "more than %d layers", MAX_LOWERS);
		snprintf(target, sizeof(target), "%s/l%zu", base, count);
		if (!mount_disk(field.value, target, MS_RDONLY, failure))
			return false;
		used += (size_t)snprintf(list + used, room - used, "%s%s", count++ ? ":" : "", target);
	}
	if (!count)
		return failed(failure, "disk", ENODEV, "", "the machine has no root file system");
	return true;
}

static bool mount_upper(struct span description, struct failure *failure)
{
	struct span disk;
	char path[BELOW_ROOM + 32];
	const char *const names[] = {"upper", "work"};
	size_t i;

	if (find_field(description, TAG_UPPER, &disk)) {
		if (!mount_disk(disk, upper, 0, failure))
			return false;
	} else if (mount("upper", upper, "tmpfs", 0, "mode=755") < 0) {
		return failed(failure, "disk", errno, upper, "mount %s: %s", upper, lower_error(errno));
	}
	for (i = 0; i < LENGTH(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", upper, names[i]);
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return failed(failure, "disk", errno, path, "mkdir %s: %s", path, lower_error(errno));
	}
	return true;
}

/* The upper directory is "/" of the overlay: it gets the owner and mode that "/" has in the image. */
static void copy_mode_of_root(const char *lowers)
{
	char path[BELOW_ROOM + 16], first[BELOW_ROOM];
	struct stat status;

	snprintf(first, sizeof(first), "%.*s", (int)strcspn(lowers, ":"), lowers);
	snprintf(path, sizeof(path), "%s/upper", upper);
	if (stat(first, &status) < 0 || chown(path, status.st_uid, status.st_gid) < 0 ||
	    chmod(path, status.st_mode & 07777) < 0)
		note("mode of the root: %s", strerror(errno));
}

bool assemble_root(struct span description, struct failure *failure)
{
	char lowers[PATH_MAX - 512] = "", data[PATH_MAX];

	if (options.root) {
		if (mount(options.root, root, NULL, MS_BIND | MS_REC, NULL) < 0)
			return failed(failure, "disk", errno, options.root, "mount %s: %s", options.root, lower_error(errno));
		return true;
	}
	if (!mount_lowers(description, lowers, sizeof(lowers), failure) || !mount_upper(description, failure))
		return false;
	copy_mode_of_root(lowers);
	snprintf(data, sizeof(data), "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lowers, upper, upper);
	if (mount("overlay", root, "overlay", 0, data) < 0)
		return failed(failure, "disk", errno, "overlay", "mount overlay: %s", lower_error(errno));
	return true;
}

static bool store_file(const char *path, struct span content, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	bool good;

	if (fd < 0)
		return false;
	good = write(fd, content.data, content.size) == (ssize_t)content.size && fchmod(fd, mode & 07777) == 0;
	close(fd);
	return good;
}

/* Files for /etc: written here, bound by the child over their places in the root. */
bool store_files(struct span body, struct failure *failure)
{
	struct field field;
	size_t count = 0;

	while (next_field(&body, &field)) {
		char path[BELOW_ROOM + 32];
		struct span text;

		if (field.tag != TAG_FILES)
			continue;
		find_field(field.value, TAG_TEXT, &text);
		snprintf(path, sizeof(path), "%s/%zu", files, count++);
		if (!store_file(path, text, (mode_t)find_number(field.value, TAG_MODE, 0644)))
			return failed(failure, "mounts", errno, path, "write %s: %s", path, lower_error(errno));
	}
	return true;
}

/* Everything is written to the disk and the disk is clean, or at least read-only. */
void release_root(void)
{
	sync();
	if (umount2(root, 0) < 0)
		umount2(root, MNT_DETACH);
	if (umount2(upper, 0) < 0 && errno != EINVAL)
		mount(NULL, upper, NULL, MS_REMOUNT | MS_RDONLY, NULL);
	sync();
	if (options.trial && umount2(base, MNT_DETACH) == 0)
		rmdir(base);
}
