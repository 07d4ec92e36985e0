// The state of a launch: threads, warps, blocks, clusters, and who is ready to run.
#pragma once

#include "context.h"
#include "host_threads.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace qb_host {

constexpr unsigned kWarp = 32;
// NaN in fp32, fp16, bf16 and e4m3 alike, so that what was never written shows in the result.
constexpr int kPoison = 0xFF;
constexpr size_t kRedZone = 256;
constexpr size_t kAlign = 128;
constexpr size_t kStaticBytes = 48 * 1024;
constexpr size_t kStackBytes = 64 * 1024;
// Rounds in which every thread only polled.
constexpr int kIdleRounds = 1000;

struct BlockState;

struct Fiber {
    Context context;
    Index thread;
    unsigned lane, warp;
    BlockState* block;
    Fiber* next;
    uint64_t value;
    int parameter, width;
    Site site;          // where it waits
    unsigned batch;  // of copies, counted from 0
    uint32_t mask;  // of the exchange it waits in, else 0
    bool ended;
    // At the cluster's barrier: arrived without having waited yet, and whether all others have since.
    bool arrived, passed;
};

// A copy that the kernel has asked for and not waited for yet.
struct Copy {
    void* to;
    const void* from;
    size_t bytes;
    unsigned batch;
};

struct List {
    Fiber *first = nullptr, *last = nullptr;
    void push(Fiber* fiber) {
        fiber->next = nullptr;
        (last ? last->next : first) = fiber;
        last = fiber;
    }
    Fiber* pop() {
        Fiber* fiber = first;
        if (fiber && !(first = fiber->next)) last = nullptr;
        return fiber;
    }
    void append(List& other) {
        if (!other.first) return;
        (last ? last->next : first) = other.first;
        last = other.last;
        other = {};
    }
};

struct Exchange {
    uint32_t mask, arrived;
    Warp kind;
    Site site;
    List waiters;
};

struct WarpState {
    uint32_t alive;
    std::vector<Exchange> open;
};

struct StaticArray {
    const void* key;
    size_t offset, bytes;
};

struct ClusterState {
    unsigned live = 0, arrived = 0;  // threads
    List waiters;
};

struct BlockState {
    Index index;
    ClusterState* cluster;
    unsigned rank, live, arrived;
    Block kind;
    Site site;
    uint32_t all, any, count;
    List waiters;
    std::vector<WarpState> warps;
    std::vector<StaticArray> arrays;
    size_t static_end, static_bytes;
    // red zone, static arrays with a red zone after each, dynamic shared memory, red zone
    unsigned char* arena;
    bool mapped;  // a peer holds the address of this block's memory since the last cluster barrier
};

struct Launch {
    void (*body)(const void*);
    const void* arguments;
    Index grid, block;
    unsigned cluster, threads;
    size_t dynamic_bytes, arena_bytes, shared_limit;
};

// Everything of one launch at a time.
struct Machine {
    Runtime runtime{};
    Launch launch{};
    Context scheduler{};
    Fiber* running = nullptr;
    List ready;
    std::vector<Fiber> fibers;
    std::vector<std::vector<Copy>> copies;  // of each fiber
    std::vector<BlockState> blocks;
    std::vector<ClusterState> clusters;
    unsigned live = 0;            // threads that have not ended, of all blocks that run together
    unsigned polling = 0;         // consecutive turns that only polled
    std::string error;
    bool failed = false;
    unsigned char* stacks = nullptr;
    size_t stack_count = 0, stride = 0;
    std::vector<unsigned char> arenas;
};

static Machine machine;

static std::string text(const char* format, ...) {
    char buffer[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(buffer, sizeof buffer, format, arguments);
    va_end(arguments);
    return buffer;
}

static std::string text(const Index& index) { return text("(%u,%u,%u)", index.x, index.y, index.z); }

static std::string text(const Site& site) {
    const char* slash = strrchr(site.file, '/');
    return text("%s (%s:%d)", site.what, slash ? slash + 1 : site.file, site.line);
}

[[noreturn]] static void leave() {
    Context abandoned;
    Context::change(machine.running ? machine.running->context : abandoned, machine.scheduler);
    __builtin_unreachable();
}

[[noreturn]] static void fail(const std::string& message) {
    if (!machine.failed) machine.error = message;
    machine.failed = true;
    leave();
}

static std::string who(const Fiber& fiber) {
    return "thread " + text(fiber.thread) + " of block " + text(fiber.block->index);
}

// Makes `fiber` the one whose indices and memory the kernel sees.
static void run(Fiber* fiber) {
    Runtime& runtime = machine.runtime;
    machine.running = fiber;
    runtime.thread = fiber->thread;
    runtime.lane = fiber->lane;
    runtime.block = fiber->block->index;
    runtime.rank = fiber->block->rank;
    runtime.dynamic_shared = fiber->block->arena + kRedZone + kStaticBytes;
}

// Hands over to the next thread that is ready; back in the scheduler when there is none.
static void run_next() {
    Fiber* from = machine.running;
    Fiber* next = machine.ready.pop();
    if (next == from) return;
    if (!next) {
        Context::change(from->context, machine.scheduler);
        return;
    }
    run(next);
    Context::change(from->context, next->context);
}

}  // namespace qb_host
