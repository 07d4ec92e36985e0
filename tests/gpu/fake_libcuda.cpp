// A libcuda.so.1 that says what it is asked for, a line a call: for cuda.bindings without a GPU.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

extern "C" {

struct Attribute {
    int id, pad;
    int value[16];
};
struct Config {
    unsigned grid[3], block[3], shared;
    void* stream;
    Attribute* attributes;
    unsigned count;
};

static int fails = 0;

#define SAY(...) (std::printf(__VA_ARGS__), std::fflush(stdout), 0)

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13020, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDevicePrimaryCtxRetain(std::uintptr_t* context, int device) { return *context = 0x100 + device, 0; }
int cuCtxPushCurrent_v2(std::uintptr_t context) { return SAY("push %#zx\n", context); }
int cuCtxPopCurrent_v2(std::uintptr_t* context) { return *context = 0x100, SAY("pop\n"); }
int cuCtxSetCurrent(std::uintptr_t context) { return SAY("set current %#zx\n", context); }
int cuThreadExchangeStreamCaptureMode(int* mode) {
    int before = *mode == 2 ? 0 : 2;
    SAY("mode %d\n", *mode);
    return *mode = before, 0;
}
int cuLibraryLoadData(std::uintptr_t* library, const char* code, void*, void*, unsigned jit, void*, void*,
                      unsigned options) {
    return *library = 0x200, SAY("load %.5s %u %u\n", code, jit, options);
}
int cuLibraryGetKernel(std::uintptr_t* kernel, std::uintptr_t library, const char* name) {
    return *kernel = 0x300, SAY("kernel %s of %#zx\n", name, library);
}
int cuKernelGetFunction(std::uintptr_t* function, std::uintptr_t) { return *function = 0x400, 0; }
int cuKernelGetParamInfo(std::uintptr_t, std::size_t index, std::size_t* offset, std::size_t* size) {
    return *offset = 0, *size = 16, index ? 1 : 0;
}
int cuFuncGetAttribute(int* value, int attribute, std::uintptr_t) {
    return *value = attribute == 0 ? 1024 : 0, 0;
}
int cuFuncSetAttribute(std::uintptr_t function, int attribute, int value) {
    return SAY("attribute %d of %#zx = %d\n", attribute, function, value);
}
int cuOccupancyMaxActiveClusters(int* count, std::uintptr_t, const Config* config) {
    return *count = 1, SAY("clusters with %u attributes\n", config->count);
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* count, std::uintptr_t, int threads, std::size_t shared) {
    return *count = 1, SAY("blocks of %d, %zu\n", threads, shared);
}
int cuLaunchKernelEx(const Config* c, std::uintptr_t function, void** parameters, void** extra) {
    if (fails++ == 0) return 201;
    SAY("launch %#zx %u %u %u / %u %u %u / %u on %p", function, c->grid[0], c->grid[1], c->grid[2], c->block[0],
        c->block[1], c->block[2], c->shared, c->stream);
    for (unsigned i = 0; i < c->count; ++i)
        SAY(" [%d: %d %d %d]", c->attributes[i].id, c->attributes[i].value[0], c->attributes[i].value[1],
            c->attributes[i].value[2]);
    std::uint64_t words[2];
    std::memcpy(words, parameters[0], sizeof words);
    SAY(" with %#llx %llu%s\n", (unsigned long long)words[0], (unsigned long long)words[1], extra ? " extra" : "");
    return fails == 4 ? 700 : 0;
}
int cuGetErrorString(int error, const char** text) {
    return *text = error == 700 ? "an illegal memory access was encountered" : "unknown", 0;
}
int cuGetProcAddress_v2(const char* name, void** address, int, std::uint64_t, int* status) {
    void* self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *address = dlsym(self, (std::string(name) + "_v2").c_str());
    if (!*address) *address = dlsym(self, name);
    if (status) *status = *address ? 0 : 1;
    return 0;
}
}
