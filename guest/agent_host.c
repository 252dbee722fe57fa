/*
 * Connections to the host: virtio-vsock, CID 2. The agent connects, nothing inside ever listens.
 *
 * It connects from reserved ports (below 1024), which need CAP_NET_BIND_SERVICE: the host takes connections from no
 * others, so an unprivileged process inside cannot use them up. A closed connection holds its port for a moment (the
 * other side has to confirm), so ports go round.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "agent.h"

#define LAST_RESERVED 1023

static int bind_reserved(int fd)
{
	static unsigned turn;
	unsigned tries;

	for (tries = 0; tries < LAST_RESERVED; tries++) {
		struct sockaddr_vm local = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY};

		local.svm_port = LAST_RESERVED - turn;
		turn = (turn + 1) % LAST_RESERVED;
		if (bind(fd, (struct sockaddr *)&local, sizeof(local)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			return -1;
	}
	return -1;
}

static int connect_vsock(unsigned port)
{
	struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	if (bind_reserved(fd) < 0 || connect(fd, (struct sockaddr *)&host, sizeof(host)) < 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

static int connect_unix(unsigned port)
{
	struct sockaddr_un host = {.sun_family = AF_UNIX};
	int fd;

	if (snprintf(host.sun_path, sizeof(host.sun_path), "%s.%u", options.socket, port) >= (int)sizeof(host.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&host, sizeof(host)) < 0) {
		int error = errno;

		close(fd);
		errno = error;
		return -1;
	}
	return fd;
}

/* A connected socket (blocking), -1 with errno. */
int connect_host(unsigned port)
{
	return options.socket ? connect_unix(port) : connect_vsock(port);
}

/* A stream: a connection whose first bytes are its token. */
int connect_stream(const uint8_t *token)
{
	int fd = connect_host(STREAM_PORT);

	if (fd < 0)
		return -1;
	if (send(fd, token, TOKEN_BYTES, MSG_NOSIGNAL) != TOKEN_BYTES) {
		int error = errno;

		close(fd);
		errno = error ? error : EPIPE;
		return -1;
	}
	return fd;
}
