/*
 * Bytes between a process and the host. A process has pipes (or a terminal), the host a connection per stream; in
 * between lies one buffer per direction, and nobody is read from while the other side takes nothing: back-pressure
 * goes through, in both directions and for each stream alone.
 *
 *     process --inside--> [out] --outside--> host          ends: the process closed it -> the connection is closed
 *     process <--inside-- [in] <--outside--- host          ends: the host's end of input -> the pipe is closed
 *
 * A host that went away is no reason for a SIGPIPE: what the process writes is then read to nowhere. A terminal is
 * both directions on one connection, and a host that closes it hangs the terminal up.
 *
 * epoll reports errors and hang-ups whether asked or not, so a descriptor nobody waits for is taken out of it.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

#define CHUNK 32768
#define TURNS 8

struct flow {
	bool there, ended, nowhere;
	size_t start, size;
	char data[CHUNK];
};

struct stream {
	struct process *owner;
	struct watch inside, outside;
	bool closed;
	struct flow out, in;
};

static void close_ends(struct stream *stream)
{
	stream->closed = true;
	watch_close(&stream->inside);
	watch_close(&stream->outside);
}

static void fill(struct flow *flow, int from)
{
	ssize_t count = read(from, flow->data, CHUNK);

	if (count > 0) {
		flow->start = 0;
		flow->size = (size_t)count;
	} else if (count == 0 || (errno != EAGAIN && errno != EINTR)) {
		flow->ended = true;
	}
}

/* false when nothing moved. */
static bool drain(struct flow *flow, int to)
{
	ssize_t count;

	if (flow->nowhere) {
		flow->size = 0;
		return true;
	}
	count = write(to, flow->data + flow->start, flow->size);
	if (count < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return false;
		flow->nowhere = true;
		return true;
	}
	flow->start += (size_t)count;
	flow->size -= (size_t)count;
	return count > 0;
}

/* Move what can be moved; true when bytes did. */
static bool pump(struct flow *flow, int from, int to)
{
	bool moved = false;
	int turn;

	if (!flow->there)
		return false;
	for (turn = 0; turn < TURNS; turn++) {
		if (!flow->size && !flow->ended)
			fill(flow, from);
		if (!flow->size || !drain(flow, to))
			return moved;
		moved = true;
	}
	return moved;
}

static void wait_for_more(struct stream *stream)
{
	const struct flow *out = &stream->out, *in = &stream->in;
	uint32_t inside = 0, outside = 0;

	if (out->there) {
		if (!out->size && !out->ended)
			inside |= EPOLLIN;
		if (!out->nowhere)
			outside |= out->size ? EPOLLOUT : in->there ? 0 : EPOLLERR;
	}
	if (in->there) {
		if (!in->size && !in->ended)
			outside |= EPOLLIN;
		inside |= in->size ? EPOLLOUT : out->there ? 0 : EPOLLERR;
	}
	watch_set(&stream->inside, inside);
	watch_set(&stream->outside, outside);
}

static void run(struct stream *stream)
{
	struct flow *out = &stream->out, *in = &stream->in;
	bool moved;

	if (stream->closed)
		return;
	moved = pump(out, stream->inside.fd, stream->outside.fd);
	moved |= pump(in, stream->outside.fd, stream->inside.fd);
	if (moved && stream->owner)
		process_moved(stream->owner);
	if ((out->there && out->ended && !out->size) || (in->there && ((in->ended && !in->size) || in->nowhere)))
		close_ends(stream);
	else
		wait_for_more(stream);
}

static void inside_ready(struct watch *watch, uint32_t events)
{
	struct stream *stream = (struct stream *)((char *)watch - offsetof(struct stream, inside));

	if (events & EPOLLERR && stream->in.there && !stream->out.there)
		close_ends(stream);
	else
		run(stream);
}

static void outside_ready(struct watch *watch, uint32_t events)
{
	struct stream *stream = (struct stream *)((char *)watch - offsetof(struct stream, outside));

	if (events & (EPOLLERR | EPOLLHUP) && stream->out.there && !stream->in.there)
		stream->out.nowhere = true;
	run(stream);
}

static int unblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 ? -1 : fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

/* Take both descriptors; NULL (and both closed) when there is no memory. */
struct stream *stream_new(struct process *owner, int inside, int outside, bool outwards, bool inwards)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (!stream || unblock(inside) < 0 || unblock(outside) < 0) {
		free(stream);
		close(inside);
		close(outside);
		return NULL;
	}
	stream->owner = owner;
	stream->inside.fd = inside;
	stream->inside.ready = inside_ready;
	stream->outside.fd = outside;
	stream->outside.ready = outside_ready;
	stream->out.there = outwards;
	stream->in.there = inwards;
	wait_for_more(stream);
	return stream;
}

/* Everything the process wrote, or will ever write, has gone to the host. */
bool stream_drained(struct stream *stream)
{
	return !stream || stream->closed || !stream->out.there;
}

/* Nothing is on its way just now. */
bool stream_silent(struct stream *stream)
{
	int waiting = 0;

	if (stream_drained(stream))
		return true;
	if (stream->out.size)
		return false;
	return ioctl(stream->inside.fd, FIONREAD, &waiting) < 0 || waiting == 0;
}

/* The terminal behind a stream gets a new size. */
int stream_descriptor(struct stream *stream)
{
	return stream && !stream->closed ? stream->inside.fd : -1;
}

void stream_close(struct stream *stream)
{
	if (!stream)
		return;
	if (!stream->closed)
		close_ends(stream);
	free(stream);
}
