// What a kernel compiled for the CPU asks of the emulator (host/launch.cpp), CUDA and Metal alike.
#ifndef QB_HOST_THREADS_H
#define QB_HOST_THREADS_H

#include <cstddef>
#include <cstdint>

namespace qb_host {

struct Index {
    unsigned x, y, z;
};

// Where in the kernel's source something waits; taken by default arguments, so it costs the caller no code.
struct Site {
    const char* what;
    const char* file;
    int line;
};

enum class Block : int { sync, any, all, count };

enum class Access : int { read, write, atomic };

enum class Warp : int { sync, ballot, any, all, shuffle, up, down, exclusive, add, min, max };

// The running thread and the services of the scheduler. One launch runs at a time, on one thread of
// the operating system, so that plain members are enough.
struct Runtime {
    Index thread, block, block_size, grid_size;
    unsigned lane, rank, cluster_size;
    unsigned char* dynamic_shared;
    uint32_t dynamic_bytes;

    uint32_t (*barrier)(Block kind, int predicate, Site site);
    // One exchange between the lanes of `mask`; the meaning of `value` and `parameter` is the kind's.
    uint64_t (*warp)(Warp kind, uint32_t mask, uint64_t value, int parameter, int width, Site site);
    void (*cluster_arrive)(Site site);
    void (*cluster_wait)(Site site);
    void* (*in_cluster)(const void* shared, unsigned rank, Site site);
    // Storage of one static shared array of this block; `key` tells arrays apart.
    void* (*shared)(const void* key, size_t bytes, size_t alignment);
    // Lets others run while this thread polls memory; reports a deadlock when nobody else can.
    void (*relax)(Site site);
    uint32_t (*active)();
    // A copy that this thread may count on once it has ended the batch (commit) and waited until at
    // most `pending` batches are left.
    void (*copy_async)(void* to, const void* from, size_t bytes);
    void (*commit_copies)();
    void (*wait_for_copies)(unsigned pending);
    // Every access of memory, which only a library with host_races.h tells of.
    void (*accessed)(const void* address, size_t bytes, Access how, const void* from);
    // Ends the launch with an error; never returns.
    void (*fail)(const char* message, Site site);
};

inline Runtime* runtime = nullptr;

}  // namespace qb_host

#define QB_HOST_SITE(what) ::qb_host::Site{what, file, line}
#define QB_HOST_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

#endif  // QB_HOST_THREADS_H
