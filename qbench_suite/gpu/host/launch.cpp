// The emulated device: every CUDA thread is a fiber, blocks run one after another, and the blocks of a
// cluster together. When nobody is ready and somebody waits, the kernel has diverged, and the launch
// fails.

#undef _FORTIFY_SOURCE  // its longjmp refuses to leave a fiber
#ifdef __APPLE__
#define _XOPEN_SOURCE 700  // declares ucontext there
#define _DARWIN_C_SOURCE
#endif

#include "copies.h"
#include "faults.h"
#include "threads.h"

#include <map>
#include <mutex>
#include <utility>

namespace qb_host {

static std::mutex turn;

static void fail_at(const char* message, Site site) {
    fail(message + (": " + who(*machine.running)) + " at " + text(site));
}

static std::string deadlock() {
    std::map<std::string, std::pair<unsigned, const Fiber*>> places;
    unsigned ended = 0;
    for (const Fiber& fiber : machine.fibers) {
        if (fiber.ended) {
            ++ended;
            continue;
        }
        const std::string mask = fiber.mask ? text(" with mask 0x%08x", fiber.mask) : "";
        auto& place = places[text(fiber.site) + mask];
        if (!place.first++) place.second = &fiber;
    }
    std::string message = "divergent barrier: nobody can go on:";
    for (const auto& [where, place] : places)
        message += text(" %u threads wait at ", place.first) + where + ", the first is " + who(*place.second) + ";";
    return message + text(" %u have ended", ended);
}

// Runs the blocks that were started together to their end.
static void run_together() {
    run(machine.ready.pop());
    Context::change(machine.scheduler, machine.running->context);
    if (machine.failed) return;
    machine.failed = machine.live != 0;
    if (machine.failed) {
        machine.error = deadlock();
        return;
    }
    for (const BlockState& block : machine.blocks) {
        if (machine.blocks.size() > 1 && !poisoned(block.arena, block.arena + machine.launch.arena_bytes)) {
            machine.failed = true;
            machine.error = "the shared memory of block " + text(block.index) +
                            " was written after it had ended; the cluster needs a barrier before its blocks end";
        }
    }
}

static void run_grid(unsigned together) {
    const Launch& launch = machine.launch;
    const uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    for (uint64_t first = 0; first < blocks && !machine.failed; first += together) {
        machine.ready = {};
        machine.polling = 0;
        for (ClusterState& cluster : machine.clusters) cluster = {launch.threads * launch.cluster, 0, {}};
        machine.live = launch.threads * together;
        for (unsigned slot = 0; slot < together; ++slot) {
            const uint64_t which = first + slot;
            BlockState& block = machine.blocks[slot];
            block.index = {static_cast<unsigned>(which % launch.grid.x),
                           static_cast<unsigned>(which / launch.grid.x % launch.grid.y),
                           static_cast<unsigned>(which / launch.grid.x / launch.grid.y)};
            block.rank = block.index.x % launch.cluster;
            block.cluster = &machine.clusters[slot / launch.cluster];
            block.arena = machine.arenas.data() + slot * launch.arena_bytes;
            block.arena += (kAlign - reinterpret_cast<uintptr_t>(machine.arenas.data()) % kAlign) % kAlign;
            start_block(block, slot);
        }
        forget_accesses();
        run_together();
    }
}

static void prepare(unsigned together) {
    Launch& launch = machine.launch;
    const size_t used = kRedZone + kStaticBytes + launch.dynamic_bytes + kRedZone;
    launch.arena_bytes = (used + kAlign - 1) / kAlign * kAlign;
    machine.arenas.resize(launch.arena_bytes * together + kAlign);
    memset(machine.arenas.data(), kPoison, machine.arenas.size());
    machine.blocks.resize(together);
    machine.clusters.resize(together / launch.cluster);
    machine.fibers.resize(static_cast<size_t>(launch.threads) * together);
    machine.copies.assign(machine.fibers.size(), {});
    reserve_stacks(machine.fibers.size());
    Runtime& runtime = machine.runtime;
    runtime.block_size = launch.block;
    runtime.grid_size = launch.grid;
    runtime.cluster_size = launch.cluster;
    runtime.dynamic_bytes = static_cast<uint32_t>(launch.dynamic_bytes);
    runtime.barrier = block_barrier;
    runtime.warp = warp_exchange;
    runtime.cluster_arrive = cluster_arrive;
    runtime.cluster_wait = cluster_wait;
    runtime.in_cluster = in_cluster;
    runtime.shared = static_shared;
    runtime.relax = relax;
    runtime.copy_async = copy_async;
    runtime.commit_copies = commit_copies;
    runtime.wait_for_copies = wait_for_copies;
    runtime.active = active;
    runtime.fail = fail_at;
    runtime.accessed = accessed;
    if (races.on) races.shared.resize(std::max(races.shared.size(), launch.arena_bytes * together / 4));
}

}  // namespace qb_host

// Runs `body` once a thread. `sizes`: grid x, y, z, block x, y, z, cluster, bytes of dynamic shared
// memory, whether all blocks run together, the most bytes of shared memory that a block may have, and
// whether races are looked for.
// Zero when all went well, else `message` says what did not.
extern "C" __attribute__((visibility("default"))) int qb_launch(
    void (*bind)(qb_host::Runtime*), void (*body)(const void*), const void* arguments, const unsigned* sizes,
    char* message, size_t message_bytes) {
    using namespace qb_host;
    std::lock_guard<std::mutex> alone(turn);
    Launch& launch = machine.launch;
    launch.body = body;
    launch.arguments = arguments;
    launch.grid = {sizes[0], sizes[1], sizes[2]};
    launch.block = {sizes[3], sizes[4], sizes[5]};
    launch.threads = launch.block.x * launch.block.y * launch.block.z;
    launch.cluster = sizes[6];
    launch.dynamic_bytes = sizes[7];
    launch.shared_limit = sizes[9];
    races.on = sizes[10] != 0;
    machine.failed = false;
    machine.error.clear();
    const unsigned together = sizes[8] ? launch.grid.x * launch.grid.y * launch.grid.z : launch.cluster;
    bind(&machine.runtime);
    try {
        prepare(together);
        FaultGuard guard;
        if (sigsetjmp(fault_exit, 1) == 0) {
            run_grid(together);
        } else {
            machine.failed = true;
            machine.error = fault();
        }
    } catch (const std::exception& error) {
        machine.failed = true;
        machine.error = error.what();
    }
    snprintf(message, message_bytes, "%s", machine.error.c_str());
    return machine.failed;
}
