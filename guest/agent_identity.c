/*
 * Who the process is: Docker's rules for "user[:group]" by name or number, looked up in the root's own /etc/passwd and
 * /etc/group (bireme/runtime/identity.py has the same), then ids and capabilities changed in the right order.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/capability.h>

#include "agent.h"

#define MAX_GROUPS 1024
#define MAX_LINE 65536
#define MAX_ID 0x7fffffff
#define NO_NUMBER (-1)
#define LAST_CAPABILITY 63

/* A line of passwd(5) or group(5) in its fields. */
struct entry {
	char *fields[8];
	size_t count;
};

static bool split(char *line, struct entry *entry)
{
	char *text = line;

	line[strcspn(line, "\r\n")] = 0;
	entry->count = 0;
	if (!line[0] || line[0] == '#' || line[0] == ':')
		return false;
	while (entry->count < LENGTH(entry->fields)) {
		entry->fields[entry->count++] = text;
		text = strchr(text, ':');
		if (!text)
			break;
		*text++ = 0;
	}
	return true;
}

/* A number of digits alone; beyond every id it is MAX_ID + 1. */
static int64_t number(const char *text)
{
	int64_t value = 0;

	if (!text[0])
		return NO_NUMBER;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return NO_NUMBER;
		value = value * 10 + (*text - '0');
		if (value > MAX_ID)
			value = (int64_t)MAX_ID + 1;
	}
	return value;
}

static void check_range(int64_t value)
{
	if (value > MAX_ID)
		child_fail("user", 0, "", "uids and gids must be in range 0-2147483647");
}

/* The first passwd entry with this name (or this uid where `name` is NULL); its name and home are copies. */
static bool look_up_passwd(const char *name, int64_t uid, struct identity *who, char **found)
{
	FILE *file = fopen("/etc/passwd", "re");
	char *line = malloc(MAX_LINE);
	struct entry entry;
	bool good = false;

	while (file && line && !good && fgets(line, MAX_LINE, file)) {
		if (!split(line, &entry) || entry.count < 4 || number(entry.fields[2]) < 0)
			continue;
		if (name ? strcmp(entry.fields[0], name) != 0 : number(entry.fields[2]) != uid)
			continue;
		check_range(number(entry.fields[2]));
		who->uid = (uid_t)number(entry.fields[2]);
		who->gid = number(entry.fields[3]) > 0 ? (gid_t)number(entry.fields[3]) : 0;
		who->home = strdup(entry.count > 5 ? entry.fields[5] : "");
		*found = strdup(entry.fields[0]);
		good = true;
	}
	if (file)
		fclose(file);
	free(line);
	return good;
}

static void add_group(struct identity *who, gid_t gid)
{
	size_t i;

	for (i = 0; i < who->group_count; i++)
		if (who->groups[i] == gid)
			return;
	if (who->group_count < MAX_GROUPS)
		who->groups[who->group_count++] = gid;
}

static bool has_member(char *members, const char *user)
{
	char *at = NULL, *member;

	for (member = strtok_r(members, ",", &at); member; member = strtok_r(NULL, ",", &at))
		if (!strcmp(member, user))
			return true;
	return false;
}

/* Every group entry: with `group` the gid of that one, otherwise those `user` is a member of are added. */
static int64_t walk_groups(const char *group, const char *user, struct identity *who)
{
	FILE *file = fopen("/etc/group", "re");
	char *line = malloc(MAX_LINE);
	struct entry entry;
	int64_t gid = NO_NUMBER;

	while (file && line && gid < 0 && fgets(line, MAX_LINE, file)) {
		if (!split(line, &entry) || entry.count < 3 || number(entry.fields[2]) < 0)
			continue;
		if (group && !strcmp(entry.fields[0], group))
			gid = number(entry.fields[2]);
		else if (!group && entry.count > 3 && has_member(entry.fields[3], user))
			add_group(who, (gid_t)number(entry.fields[2]));
	}
	if (file)
		fclose(file);
	free(line);
	return gid;
}

static gid_t look_up_group(const char *group, struct identity *who)
{
	int64_t gid = walk_groups(group, NULL, who);

	if (gid < 0)
		gid = number(group);
	if (gid < 0)
		child_fail("user", 0, group, "unable to find group %s: no matching entries in group file", group);
	check_range(gid);
	return (gid_t)gid;
}

static void look_up_user(const char *user, struct identity *who, char **name)
{
	int64_t uid = number(user);

	if (look_up_passwd(user, 0, who, name))
		return;
	if (uid < 0)
		child_fail("user", 0, user, "unable to find user %s: no matching entries in passwd file", user);
	check_range(uid);
	if (!look_up_passwd(NULL, uid, who, name)) {
		who->uid = (uid_t)uid;
		who->gid = 0;
	}
}

void resolve_identity(struct span process, struct identity *who)
{
	char *user = find_text(process, TAG_USER), *group = strchr(user, ':'), *name = NULL, **more;
	size_t count, i;
	bool given = user[0] != 0;

	if (group)
		*group++ = 0;
	who->groups = calloc(MAX_GROUPS, sizeof(*who->groups));
	if (!who->groups)
		abort();
	if (user[0]) {
		look_up_user(user, who, &name);
	} else {
		look_up_passwd(NULL, 0, who, &name);
		who->gid = 0;
	}
	if (group && group[0])
		who->gid = look_up_group(group, who);
	if (given)
		add_group(who, who->gid);
	if (!(group && group[0]) && user[0] && name)
		walk_groups(NULL, name, who);
	more = find_texts(process, TAG_GROUPS, &count);
	for (i = 0; i < count; i++)
		add_group(who, look_up_group(more[i], who));
	if (!who->home)
		who->home = copy_text((struct span){NULL, 0});
}

static void get_sets(struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};

	if (syscall(SYS_capget, &head, data) < 0)
		child_fail_call("capabilities", "capget", "sets");
}

static void set_sets(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
		{(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
		{(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
	};

	if (syscall(SYS_capset, &head, data) < 0)
		child_fail_call("capabilities", "capset", "sets");
}

static uint64_t permitted_now(void)
{
	struct __user_cap_data_struct data[2];

	get_sets(data);
	return data[0].permitted | (uint64_t)data[1].permitted << 32;
}

/* Shrink the bounding set and take the ids. With capabilities asked for, the permitted ones stay until give_up. */
void take_identity(const struct identity *who, struct span process)
{
	struct span sets;
	bool asked = find_field(process, TAG_CAPABILITIES, &sets);
	uint64_t bounding = (uint64_t)find_number(sets, TAG_BOUNDING, 0), permitted;
	int bit;

	for (bit = 0; asked && bit <= LAST_CAPABILITY; bit++)
		if (!(bounding >> bit & 1) && prctl(PR_CAPBSET_READ, bit, 0, 0, 0) == 1 &&
		    prctl(PR_CAPBSET_DROP, bit, 0, 0, 0) < 0)
			child_fail_call("capabilities", "prctl", "PR_CAPBSET_DROP");
	if (asked && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		child_fail_call("capabilities", "prctl", "PR_SET_KEEPCAPS");
	if (setgroups(who->group_count, who->groups) < 0 || setresgid(who->gid, who->gid, who->gid) < 0 ||
	    setresuid(who->uid, who->uid, who->uid) < 0)
		child_fail_call("user", "setresuid", "ids");
	if (asked) {
		permitted = permitted_now();
		set_sets(permitted, permitted, 0);
	}
}

/* Leave the capabilities that were asked for and no others. */
void give_up(struct span process)
{
	struct span sets;
	uint64_t have, permitted, inheritable, ambient;
	int bit;

	if (!find_field(process, TAG_CAPABILITIES, &sets))
		return;
	have = permitted_now();
	permitted = (uint64_t)find_number(sets, TAG_PERMITTED, 0) & have;
	inheritable = (uint64_t)find_number(sets, TAG_INHERITABLE, 0) & have;
	ambient = (uint64_t)find_number(sets, TAG_AMBIENT, 0) & permitted & inheritable;
	prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
	set_sets((uint64_t)find_number(sets, TAG_EFFECTIVE, 0) & permitted, permitted, inheritable);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	for (bit = 0; bit <= LAST_CAPABILITY; bit++)
		if (ambient >> bit & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0) < 0)
			child_fail_call("capabilities", "prctl", "PR_CAP_AMBIENT");
}
