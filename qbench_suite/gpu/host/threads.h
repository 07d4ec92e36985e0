// Threads of a block: how they start, poll and end.
#pragma once

#include "barriers.h"
#include "clusters.h"
#include "shared_memory.h"
#include "warps.h"

#include <sys/mman.h>
#include <unistd.h>
#include <exception>
#include <new>

namespace qb_host {

static void relax(Site site) {
    Fiber* self = machine.running;
    self->site = site;
    if (++machine.polling > kIdleRounds * machine.live)
        fail("deadlock: " + who(*self) + " polls for ever at " + text(site));
    machine.ready.push(self);
    run_next();
}

// Called on the fiber itself, at its end.
static void end_thread() {
    Fiber* self = machine.running;
    BlockState& block = *self->block;
    machine.polling = 0;
    self->ended = true;
    order_end(self);
    ClusterState& cluster = *block.cluster;
    if (self->arrived && !self->passed) --cluster.arrived;
    self->arrived = false;
    --cluster.live;
    WarpState& warp = block.warps[self->warp];
    warp.alive &= ~(1u << self->lane);
    for (size_t which = 0; which < warp.open.size();) {
        Exchange& open = warp.open[which];
        if (open.mask >> self->lane & 1) {
            if (shuffles(open.kind))
                fail("partial shuffle: " + who(*self) + " has ended, while its warp waits at " + text(open.site));
            if (open.arrived == (open.mask & warp.alive)) {
                release_warp(warp, which);
                continue;
            }
        }
        ++which;
    }
    --machine.live;
    if (--block.live == 0) {
        if (block.mapped)
            fail("block " + text(block.index) +
                 " ended while a peer holds the address of its shared memory; the cluster needs a barrier before");
        if (std::string message = overrun(block); !message.empty()) fail(message);
        // What a peer still reads from here is not a number; what it writes is found when all have ended.
        poison(block);
    } else if (block.arrived && block.arrived == block.live) {
        release_block(block);
    }
    if (cluster.arrived) release_cluster(cluster);
}

static void thread_entry() {
    try {
        machine.launch.body(machine.launch.arguments);
    } catch (const std::exception& error) {
        fail(std::string("the kernel raised ") + error.what() + ": " + who(*machine.running));
    } catch (...) {
        fail("the kernel raised an exception: " + who(*machine.running));
    }
    end_thread();
    run_next();
    __builtin_unreachable();
}

static void reserve_stacks(size_t count) {
    if (count <= machine.stack_count) return;
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    if (machine.stacks) munmap(machine.stacks, machine.stride * machine.stack_count);
    machine.stack_count = 0;
    machine.stacks = nullptr;
    // A page below each stack turns an overflow into a fault, which is reported.
    machine.stride = kStackBytes + page;
    void* made = mmap(nullptr, machine.stride * count, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (made == MAP_FAILED) throw std::bad_alloc();
    machine.stacks = static_cast<unsigned char*>(made);
    machine.stack_count = count;
    for (size_t which = 0; which < count; ++which) mprotect(machine.stacks + which * machine.stride, page, PROT_NONE);
}

static void start_block(BlockState& block, unsigned slot) {
    const Launch& launch = machine.launch;
    block.live = launch.threads;
    block.arrived = 0;
    block.waiters = {};
    block.arrays.clear();
    block.static_end = kRedZone;
    block.static_bytes = 0;
    block.mapped = false;
    block.warps.resize((launch.threads + kWarp - 1) / kWarp);
    for (WarpState& warp : block.warps) {
        warp.alive = 0;
        warp.open.clear();
    }
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (unsigned turn = 0; turn < launch.threads; ++turn) {
        // Every other block runs its threads backwards: a missing barrier shows in one order or the other.
        const unsigned which = (block.index.x + block.index.y + block.index.z) % 2 ? launch.threads - 1 - turn : turn;
        const unsigned fiber_index = slot * launch.threads + which;
        Fiber& fiber = machine.fibers[fiber_index];
        fiber = Fiber{};
        machine.copies[fiber_index].clear();
        fiber.thread = {which % launch.block.x, which / launch.block.x % launch.block.y,
                        which / (launch.block.x * launch.block.y)};
        fiber.lane = which % kWarp;
        fiber.warp = which / kWarp;
        fiber.block = &block;
        block.warps[fiber.warp].alive |= 1u << fiber.lane;
        unsigned char* stack = machine.stacks + fiber_index * machine.stride + page;
        // Stacks that begin at the same place of a page would fight for the same lines of the cache.
        fiber.context.start(stack, kStackBytes - fiber_index % 32 * 128, thread_entry);
        machine.ready.push(&fiber);
    }
}

}  // namespace qb_host
