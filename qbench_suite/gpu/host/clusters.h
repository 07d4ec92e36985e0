// Blocks of a cluster: their barrier, and the addresses of each other's shared memory.
#pragma once

#include "races.h"

namespace qb_host {

static void release_cluster(ClusterState& cluster) {
    if (cluster.arrived != cluster.live) return;
    cluster.arrived = 0;
    for (BlockState& block : machine.blocks)
        if (block.cluster == &cluster) block.mapped = false;
    for (Fiber& fiber : machine.fibers)
        if (fiber.block->cluster == &cluster && fiber.arrived) fiber.passed = true;
    machine.ready.append(cluster.waiters);
}

static void cluster_arrive(Site site) {
    Fiber* self = machine.running;
    if (self->arrived)
        fail("two arrivals at the cluster's barrier without a wait between: " + who(*self) + " at " + text(site));
    self->arrived = true;
    self->passed = false;
    machine.polling = 0;
    order_arrival(self);
    ++self->block->cluster->arrived;
    release_cluster(*self->block->cluster);
}

static void cluster_wait(Site site) {
    Fiber* self = machine.running;
    if (!self->arrived)
        fail("a wait at the cluster's barrier without an arrival before: " + who(*self) + " at " + text(site));
    if (!self->passed) {
        self->site = site;
        self->block->cluster->waiters.push(self);
        run_next();
    }
    self->arrived = false;
    order_wait(self);
}

static size_t arena_of(const void* shared) {
    const auto* byte = static_cast<const unsigned char*>(shared);
    const unsigned char* first = machine.blocks[0].arena;
    const size_t size = machine.launch.arena_bytes;
    if (byte < first || byte >= first + size * machine.blocks.size()) return machine.blocks.size();
    return static_cast<size_t>(byte - first) / size;
}

static void* in_cluster(const void* shared, unsigned rank, Site site) {
    Fiber* self = machine.running;
    const size_t owner = arena_of(shared);
    if (owner == machine.blocks.size())
        fail("in_cluster takes an address in shared memory: " + who(*self) + " at " + text(site));
    if (rank >= machine.runtime.cluster_size)
        fail(text("the cluster has %u blocks; asked for rank %u: ", machine.runtime.cluster_size, rank) + who(*self) +
             " at " + text(site));
    BlockState& peer = machine.blocks[owner - machine.blocks[owner].rank + rank];
    if (!peer.live)
        fail("the shared memory of a block that has ended: " + who(*self) + " maps block " + text(peer.index) +
             " at " + text(site) + "; the cluster needs a barrier before its blocks end");
    if (&peer != self->block) peer.mapped = true;
    return peer.arena + (static_cast<const unsigned char*>(shared) - machine.blocks[owner].arena);
}

}  // namespace qb_host
