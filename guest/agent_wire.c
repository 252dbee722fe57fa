/*
 * Fields and frames. Reading: a span is cut into fields, each bounds-checked; nothing is copied until a text is wanted.
 * Writing: into a fixed buffer that is never longer than the host takes; what does not fit is left out and `full` says so.
 */

#include <stdlib.h>
#include <string.h>

#include "agent.h"

static uint32_t load32(const uint8_t *at)
{
	return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void store(uint8_t *at, uint64_t value, size_t size)
{
	while (size--) {
		*at++ = (uint8_t)value;
		value >>= 8;
	}
}

/* The next field of `rest`; false at the end and where the rest is malformed. */
bool next_field(struct span *rest, struct field *field)
{
	uint32_t size;

	if (rest->size < FIELD_BYTES)
		return false;
	size = load32(rest->data + 4);
	if (size > rest->size - FIELD_BYTES)
		return false;
	field->tag = (uint16_t)(rest->data[0] | rest->data[1] << 8);
	field->value.data = rest->data + FIELD_BYTES;
	field->value.size = size;
	rest->data += FIELD_BYTES + size;
	rest->size -= FIELD_BYTES + size;
	return true;
}

bool find_field(struct span body, uint16_t tag, struct span *value)
{
	struct field field;

	while (next_field(&body, &field)) {
		if (field.tag == tag) {
			*value = field.value;
			return true;
		}
	}
	value->data = NULL;
	value->size = 0;
	return false;
}

int64_t find_number(struct span body, uint16_t tag, int64_t otherwise)
{
	struct span value;

	if (!find_field(body, tag, &value) || value.size != 8)
		return otherwise;
	return (int64_t)((uint64_t)load32(value.data) | (uint64_t)load32(value.data + 4) << 32);
}

char *copy_text(struct span value)
{
	char *text = malloc(value.size + 1);

	if (!text)
		abort();
	if (value.size)
		memcpy(text, value.data, value.size);
	text[value.size] = 0;
	return text;
}

/* A copy of a text field, "" when there is none. */
char *find_text(struct span body, uint16_t tag)
{
	struct span value;

	find_field(body, tag, &value);
	return copy_text(value);
}

/* All text fields of a tag, with NULL behind the last. */
char **find_texts(struct span body, uint16_t tag, size_t *count)
{
	struct span rest = body;
	struct field field;
	char **texts;

	*count = 0;
	while (next_field(&rest, &field))
		*count += field.tag == tag;
	texts = calloc(*count + 1, sizeof(*texts));
	if (!texts)
		abort();
	*count = 0;
	while (next_field(&body, &field))
		if (field.tag == tag)
			texts[(*count)++] = copy_text(field.value);
	return texts;
}

static uint8_t *grow(struct message *message, size_t size)
{
	uint8_t *at;

	if (message->full || size > message->capacity - message->size) {
		message->full = true;
		return NULL;
	}
	at = message->data + message->size;
	message->size += size;
	return at;
}

void message_begin(struct message *message, uint16_t kind, uint32_t rid)
{
	message->size = 0;
	message->full = false;
	store(message->data, 0, 4);
	store(message->data + 4, kind, 2);
	store(message->data + 6, 0, 2);
	store(message->data + 8, rid, 4);
	message->size = HEAD_BYTES;
}

static void put(struct message *message, uint16_t tag, const void *data, size_t size)
{
	uint8_t *at = grow(message, FIELD_BYTES + size);

	if (!at)
		return;
	store(at, tag, 4);
	store(at + 4, size, 4);
	memcpy(at + FIELD_BYTES, data, size);
}

void put_number(struct message *message, uint16_t tag, int64_t value)
{
	uint8_t bytes[8];

	store(bytes, (uint64_t)value, 8);
	put(message, tag, bytes, sizeof(bytes));
}

void put_text(struct message *message, uint16_t tag, const char *text)
{
	put(message, tag, text, strlen(text));
}

/* Begin a group; the mark goes to end_group. A group that did not fit is taken back as a whole. */
size_t put_group(struct message *message, uint16_t tag)
{
	size_t mark = message->size;
	uint8_t *at = grow(message, FIELD_BYTES);

	if (at)
		store(at, tag, 8);
	return mark;
}

void end_group(struct message *message, size_t mark)
{
	if (message->full)
		message->size = mark;
	else
		store(message->data + mark + 4, message->size - mark - FIELD_BYTES, 4);
}

void message_end(struct message *message)
{
	store(message->data, message->size - HEAD_BYTES, 4);
}
