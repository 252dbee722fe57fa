/*
 * Interfaces by rtnetlink(7): found by hardware address, named, addressed, with a default route. One request, one
 * acknowledgement. Loopback is set up always.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define INTERFACE_WAIT_MS 5000

struct request {
	struct nlmsghdr head;
	union {
		struct ifinfomsg link;
		struct ifaddrmsg address;
		struct rtmsg route;
		char bytes[512];
	};
};

static void begin(struct request *request, uint16_t type, uint16_t flags, size_t size)
{
	memset(request, 0, sizeof(*request));
	request->head.nlmsg_len = NLMSG_LENGTH(size);
	request->head.nlmsg_type = type;
	request->head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
}

static void attribute(struct request *request, uint16_t type, const void *data, size_t size)
{
	struct rtattr *at = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->head.nlmsg_len));

	if (NLMSG_ALIGN(request->head.nlmsg_len) + RTA_SPACE(size) > sizeof(*request))
		return;
	at->rta_type = type;
	at->rta_len = (unsigned short)RTA_LENGTH(size);
	memcpy(RTA_DATA(at), data, size);
	request->head.nlmsg_len = (uint32_t)(NLMSG_ALIGN(request->head.nlmsg_len) + RTA_SPACE(size));
}

/* 0 or the kernel's errno. */
static int transact(int fd, struct request *request)
{
	char answer[4096];
	ssize_t size;
	const struct nlmsghdr *head = (const struct nlmsghdr *)answer;

	if (send(fd, request, request->head.nlmsg_len, 0) < 0)
		return errno;
	size = recv(fd, answer, sizeof(answer), 0);
	if (size < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || head->nlmsg_type != NLMSG_ERROR)
		return EPROTO;
	return -((const struct nlmsgerr *)NLMSG_DATA(head))->error;
}

static bool has_mac(int fd, const char *name, const char *mac)
{
	struct ifreq request = {0};
	unsigned char *bytes = (unsigned char *)request.ifr_hwaddr.sa_data;
	char text[18];

	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
		return false;
	snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2], bytes[3], bytes[4],
		 bytes[5]);
	return strcasecmp(text, mac) == 0;
}

static unsigned look_for(int fd, const char *mac, char *name)
{
	struct if_nameindex *list = if_nameindex(), *at;
	unsigned found = 0;

	for (at = list; at && at->if_index; at++) {
		if (has_mac(fd, at->if_name, mac)) {
			found = at->if_index;
			snprintf(name, IFNAMSIZ, "%s", at->if_name);
			break;
		}
	}
	if (list)
		if_freenameindex(list);
	return found;
}

static unsigned wait_interface(const char *mac, char *name)
{
	const struct timespec pause = {.tv_nsec = 2000000};
	int64_t until = now_ms() + INTERFACE_WAIT_MS;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned index;

	while ((index = look_for(fd, mac, name)) == 0 && now_ms() < until)
		nanosleep(&pause, NULL);
	close(fd);
	return index;
}

static int set_link(int fd, unsigned index, const char *name, int64_t mtu, bool up)
{
	struct request request;
	uint32_t number = (uint32_t)mtu;

	begin(&request, RTM_NEWLINK, 0, sizeof(request.link));
	request.link.ifi_index = (int)index;
	if (up)
		request.link.ifi_flags = request.link.ifi_change = IFF_UP;
	if (name && name[0])
		attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
	if (number)
		attribute(&request, IFLA_MTU, &number, sizeof(number));
	return transact(fd, &request);
}

/* The family and size of an address text, 0 when it is none. */
static size_t parse_address(const char *text, uint8_t *bytes, int *family)
{
	*family = strchr(text, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(*family, text, bytes) != 1)
		return 0;
	return *family == AF_INET6 ? 16 : 4;
}

static int add_address(int fd, unsigned index, const char *text, int64_t prefix_len)
{
	struct request request;
	uint8_t bytes[16];
	int family;
	size_t size = parse_address(text, bytes, &family);

	if (!size || prefix_len < 0 || prefix_len > (int64_t)size * 8)
		return EINVAL;
	begin(&request, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof(request.address));
	request.address.ifa_family = (uint8_t)family;
	request.address.ifa_prefixlen = (uint8_t)prefix_len;
	request.address.ifa_flags = family == AF_INET6 ? IFA_F_NODAD : 0;
	request.address.ifa_index = index;
	attribute(&request, IFA_LOCAL, bytes, size);
	attribute(&request, IFA_ADDRESS, bytes, size);
	if (family == AF_INET) {
		uint32_t mask = prefix_len ? htonl(~0u << (32 - prefix_len)) : 0, value;

		memcpy(&value, bytes, 4);
		value |= ~mask;
		attribute(&request, IFA_BROADCAST, &value, 4);
	}
	return transact(fd, &request);
}

static int add_default_route(int fd, unsigned index, const char *gateway)
{
	struct request request;
	uint8_t bytes[16];
	int family;
	size_t size = parse_address(gateway, bytes, &family);

	if (!size)
		return EINVAL;
	begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof(request.route));
	request.route.rtm_family = (uint8_t)family;
	request.route.rtm_table = RT_TABLE_MAIN;
	request.route.rtm_protocol = RTPROT_BOOT;
	request.route.rtm_type = RTN_UNICAST;
	attribute(&request, RTA_GATEWAY, bytes, size);
	attribute(&request, RTA_OIF, &index, sizeof(index));
	return transact(fd, &request);
}

static bool configure_interface(int fd, struct span interface, struct failure *failure)
{
	char *mac = find_text(interface, TAG_MAC), *name = find_text(interface, TAG_NAME);
	char *address = find_text(interface, TAG_ADDRESS), *gateway = find_text(interface, TAG_GATEWAY);
	char present[IFNAMSIZ] = "";
	unsigned index = wait_interface(mac, present);
	int error = 0;

	if (!index)
		return failed(failure, "network", ENODEV, mac, "no network interface has the address %s", mac);
	if (strcmp(present, name))
		error = set_link(fd, index, name, 0, false);
	if (!error)
		error = set_link(fd, index, NULL, find_number(interface, TAG_MTU, 0), true);
	if (!error && address[0])
		error = add_address(fd, index, address, find_number(interface, TAG_PREFIX_LEN, 0));
	if (!error && gateway[0])
		error = add_default_route(fd, index, gateway);
	if (error)
		return failed(failure, "network", error, name, "configure %s: %s", name, lower_error(error));
	free(mac);
	free(name);
	free(address);
	free(gateway);
	return true;
}

bool configure_network(struct span body, struct failure *failure)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	struct field field;
	bool good = true;
	int error;

	if (fd < 0)
		return failed(failure, "network", errno, "", "netlink: %s", lower_error(errno));
	error = set_link(fd, 1, NULL, 0, true);
	if (error)
		good = failed(failure, "network", error, "lo", "configure lo: %s", lower_error(error));
	while (good && next_field(&body, &field))
		if (field.tag == TAG_INTERFACES)
			good = configure_interface(fd, field.value, failure);
	close(fd);
	return good;
}
