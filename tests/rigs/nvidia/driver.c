/* What an NVIDIA driver installs, as far as this worker asks: built as libcuda.so.1 and as libnvidia-ml.so.1.
   Its two GPUs, and what is wrong with it, are in the environment. */
#include <stdlib.h>
#include <string.h>

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text == NULL ? otherwise : atol(text);
}

/* ---- libcuda ---- */

int cuInit(unsigned flags) { (void)flags; return (int)number("RIG_CUINIT", 0); }

int cuDeviceGetCount(int *count) { *count = (int)number("RIG_GPUS", 2); return 0; }

int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }

int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 0 ? "Rig GPU A" : "Rig GPU B", (size_t)length);
    return 0;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(16 * device + i);
    return 0;
}

/* Windows' alone: elsewhere it is "not supported". */
int cuDeviceGetLuid(char *luid, unsigned *nodes, int device) {
    if (!number("RIG_LUID", 0)) return 801;
    const int parts[2] = {0xD4C2 + device, -1};
    memcpy(luid, parts, sizeof parts);
    *nodes = 1;
    return 0;
}

int cuGetErrorString(int code, const char **text) {
    if (code != 803) return 1;
    *text = "system has unsupported display driver / cuda driver combination";
    return 0;
}

/* ---- NVML ---- */

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };

int nvmlInitWithFlags(unsigned flags) { (void)flags; return (int)number("RIG_NVML_INIT", 0); }

int nvmlShutdown(void) { return 0; }

const char *nvmlErrorString(int code) { (void)code; return "Driver Not Loaded"; }

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    static char handle;
    const char *known = getenv("RIG_NVML_UUID");
    if (strcmp(uuid, known ? known : "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f") != 0) return NOT_FOUND;
    *device = &handle;
    return 0;
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

int nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
    (void)device;
    if (number("RIG_NVML_MEMORY", 2) < 1) return NOT_SUPPORTED;
    *memory = (struct memory){8000, 5000, 3000};
    return 0;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *memory) {
    (void)device;
    if (number("RIG_NVML_MEMORY", 2) < 2) return NOT_SUPPORTED;
    if (memory->version != (2u << 24 | sizeof(struct memory_v2))) return NOT_SUPPORTED;
    memory->total = 8000, memory->reserved = 500, memory->free = 5000, memory->used = 2500;
    return 0;
}

struct process { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; };

static int processes(unsigned *count, struct process *listed, long pid) {
    if (pid < 0) { *count = 0; return 0; }
    if (*count < 2 || listed == NULL) { *count = 2; return INSUFFICIENT_SIZE; }
    listed[0] = (struct process){1, 77, ~0u, ~0u};
    listed[1] = (struct process){(unsigned)pid, (unsigned long long)number("RIG_NVML_USED", 1234), ~0u, ~0u};
    *count = 2;
    return 0;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *listed) {
    (void)device;
    return processes(count, listed, number("RIG_NVML_COMPUTE_PID", -1));
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, struct process *listed) {
    (void)device;
    return processes(count, listed, number("RIG_NVML_GRAPHICS_PID", -1));
}
