// The barrier of a block. It keeps a list of those who wait; who completes it makes them ready.
#pragma once

#include "races.h"

namespace qb_host {

static void release_block(BlockState& block) {
    for (Fiber* fiber = block.waiters.first; fiber; fiber = fiber->next) {
        fiber->value = block.kind == Block::any   ? block.any
                       : block.kind == Block::all ? block.all
                                                      : block.count;
    }
    block.arrived = 0;
    order_block(block);
    machine.ready.append(block.waiters);
}

static uint32_t block_barrier(Block kind, int predicate, Site site) {
    Fiber* self = machine.running;
    BlockState& block = *self->block;
    if (!block.arrived) {
        block.kind = kind;
        block.site = site;
        block.all = 1;
        block.any = block.count = 0;
    } else if (block.kind != kind) {
        fail("divergent barrier: " + who(*self) + " waits at " + text(site) +
             ", while others of its block wait at " + text(block.site));
    }
    block.all &= predicate != 0;
    block.any |= predicate != 0;
    block.count += predicate != 0;
    self->site = site;
    machine.polling = 0;
    block.waiters.push(self);
    if (++block.arrived == block.live) release_block(block);
    run_next();
    return static_cast<uint32_t>(self->value);
}

}  // namespace qb_host
