/*
 * The numbers of the protocol with the host: bireme/wire/agent.py says what they mean, a test that both are the same.
 */

#ifndef AGENT_WIRE_H
#define AGENT_WIRE_H

#include <stddef.h>
#include <stdint.h>

#define AGENT_VERSION 1
#define AGENT_OLDEST 1
#define CONTROL_PORT 1024
#define STREAM_PORT 1025
#define TOKEN_BYTES 16
#define HEAD_BYTES 12
#define FIELD_BYTES 8
#define MAX_TO_AGENT 4194304
#define MAX_FROM_AGENT 262144

#define KIND_HELLO 1
#define KIND_CONFIGURE 2
#define KIND_EXEC 3
#define KIND_SIGNAL 4
#define KIND_RESIZE 5
#define KIND_PROCESSES 6
#define KIND_STATS 7
#define KIND_CLOCK 8
#define KIND_PING 9
#define KIND_SHUTDOWN 10
#define KIND_OK 32
#define KIND_ERROR 33
#define KIND_EXITED 34

#define TAG_VERSION 1
#define TAG_OLDEST 2
#define TAG_SOFTWARE 3
#define TAG_KERNEL 4
#define TAG_CLOCK_NS 5
#define TAG_ENTROPY 6
#define TAG_STDIN_TOKEN 7
#define TAG_STDOUT_TOKEN 8
#define TAG_STDERR_TOKEN 9
#define TAG_CONSOLE_TOKEN 10
#define TAG_HOSTNAME 16
#define TAG_DOMAINNAME 17
#define TAG_ROOT 18
#define TAG_INTERFACES 19
#define TAG_FILES 20
#define TAG_MOUNTS 21
#define TAG_SYSCTLS 22
#define TAG_SHM_SIZE_BYTES 23
#define TAG_PROCESS 24
#define TAG_LOWER 25
#define TAG_UPPER 26
#define TAG_DEVICE 27
#define TAG_TYPE 28
#define TAG_READ_ONLY 29
#define TAG_NAME 30
#define TAG_MAC 31
#define TAG_ADDRESS 32
#define TAG_PREFIX_LEN 33
#define TAG_GATEWAY 34
#define TAG_MTU 35
#define TAG_PATH 36
#define TAG_TEXT 37
#define TAG_MODE 38
#define TAG_KIND 39
#define TAG_TARGET 40
#define TAG_SIZE_BYTES 41
#define TAG_KEY 42
#define TAG_VALUE 43
#define TAG_ARGS 64
#define TAG_ENV 65
#define TAG_CWD 66
#define TAG_USER 67
#define TAG_GROUPS 68
#define TAG_UMASK 69
#define TAG_TERMINAL 70
#define TAG_ROWS 71
#define TAG_COLUMNS 72
#define TAG_RLIMITS 73
#define TAG_CAPABILITIES 74
#define TAG_NO_NEW_PRIVILEGES 75
#define TAG_OOM_SCORE_ADJ 76
#define TAG_NUMBER 77
#define TAG_SOFT 78
#define TAG_HARD 79
#define TAG_BOUNDING 80
#define TAG_EFFECTIVE 81
#define TAG_PERMITTED 82
#define TAG_INHERITABLE 83
#define TAG_AMBIENT 84
#define TAG_PID 96
#define TAG_STAGE 97
#define TAG_ERRNO 98
#define TAG_SUBJECT 99
#define TAG_MESSAGE 100
#define TAG_CODE 101
#define TAG_SIGNAL 102
#define TAG_SIGNUM 104
#define TAG_ALL 105
#define TAG_PROCESSES 106
#define TAG_TRUNCATED 107
#define TAG_PPID 108
#define TAG_UID 109
#define TAG_COMMAND 110
#define TAG_STARTED_AT_NS 111
#define TAG_CPU_NS 112
#define TAG_TTY 113
#define TAG_PIDS 114
#define TAG_MEMORY_TOTAL_BYTES 115
#define TAG_MEMORY_AVAILABLE_BYTES 116
#define TAG_MEMORY_CACHED_BYTES 117
#define TAG_CPU_USER_NS 118
#define TAG_CPU_SYSTEM_NS 119
#define TAG_DISK_TOTAL_BYTES 120
#define TAG_DISK_FREE_BYTES 121

#endif
