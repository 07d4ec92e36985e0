// Exchanges between the lanes of a warp: whoever comes last does it for all.
#pragma once

#include "races.h"

namespace qb_host {

static uint64_t folded(Warp kind, uint64_t left, uint64_t right) {
    if (kind == Warp::add) return static_cast<uint32_t>(left + right);
    const bool smaller = static_cast<int64_t>(left) < static_cast<int64_t>(right);
    return smaller == (kind == Warp::min) ? left : right;
}

static int source_lane(const Fiber& fiber, Warp kind) {
    const int lane = static_cast<int>(fiber.lane), base = lane & ~(fiber.width - 1);
    const int end = base + fiber.width;
    int source = 0;
    switch (kind) {
        case Warp::shuffle: return base + (fiber.parameter & (fiber.width - 1));
        case Warp::up: source = lane - fiber.parameter; return source < base ? lane : source;
        case Warp::down: source = lane + fiber.parameter; return source >= end ? lane : source;
        default: source = lane ^ fiber.parameter; return source >= end ? lane : source;
    }
}

static bool shuffles(Warp kind) { return kind >= Warp::shuffle && kind <= Warp::exclusive; }

static void release_warp(WarpState& warp, size_t which) {
    Exchange done = warp.open[which];
    warp.open.erase(warp.open.begin() + static_cast<std::ptrdiff_t>(which));
    Fiber* lanes[kWarp] = {};
    uint64_t values[kWarp] = {};
    uint32_t ballot = 0;
    for (Fiber* fiber = done.waiters.first; fiber; fiber = fiber->next) {
        lanes[fiber->lane] = fiber;
        values[fiber->lane] = fiber->value;
        if (fiber->value) ballot |= 1u << fiber->lane;
    }
    uint64_t all = done.waiters.first ? done.waiters.first->value : 0;
    if (done.kind >= Warp::add) {
        for (Fiber* fiber = done.waiters.first->next; fiber; fiber = fiber->next)
            all = folded(done.kind, all, fiber->value);
    }
    for (Fiber* fiber = done.waiters.first; fiber; fiber = fiber->next) {
        if (shuffles(done.kind)) {
            const int source = source_lane(*fiber, done.kind);
            if (!lanes[source]) {
                fail(text("a shuffle reads lane %d, which its mask 0x%08x leaves out: ", source, done.mask) +
                     who(*fiber) + " at " + text(done.site));
            }
            fiber->value = values[source];
        } else if (done.kind == Warp::ballot || done.kind == Warp::sync) {
            fiber->value = ballot;
        } else if (done.kind == Warp::any) {
            fiber->value = ballot != 0;
        } else if (done.kind == Warp::all) {
            fiber->value = ballot == done.arrived;
        } else {
            fiber->value = all;
        }
    }
    order_warp(done.waiters, done.kind == Warp::sync);
    machine.ready.append(done.waiters);
}

static Exchange& exchange(WarpState& warp, Warp kind, uint32_t mask, Site site) {
    for (Exchange& open : warp.open) {
        if (open.mask == mask) {
            if (open.kind != kind) {
                fail("divergent warp: " + who(*machine.running) + " is at " + text(site) +
                     ", while others of its warp wait at " + text(open.site));
            }
            return open;
        }
    }
    warp.open.push_back({mask, 0, kind, site, {}});
    return warp.open.back();
}

static uint64_t warp_exchange(Warp kind, uint32_t mask, uint64_t value, int parameter, int width, Site site) {
    Fiber* self = machine.running;
    WarpState& warp = self->block->warps[self->warp];
    const auto here = [&] { return who(*self) + " at " + text(site); };
    if (!(mask >> self->lane & 1))
        fail(text("the mask 0x%08x leaves out the calling lane %u: ", mask, self->lane) + here());
    if (width < 1 || width > static_cast<int>(kWarp) || (width & (width - 1)))
        fail(text("a shuffle's width is a power of two up to 32; got %d: ", width) + here());
    if (shuffles(kind) && (mask & ~warp.alive))
        fail(text("partial shuffle: the mask 0x%08x names lanes 0x%08x, which have ended or were never there: ", mask,
                  mask & ~warp.alive) + here());
    Exchange& open = exchange(warp, kind, mask, site);
    self->value = value;
    self->parameter = parameter;
    self->width = width;
    self->site = site;
    self->mask = mask;
    machine.polling = 0;
    open.arrived |= 1u << self->lane;
    open.waiters.push(self);
    if (open.arrived == (mask & warp.alive)) release_warp(warp, static_cast<size_t>(&open - warp.open.data()));
    run_next();
    self->mask = 0;
    return self->value;
}

static uint32_t active() { return machine.running->block->warps[machine.running->warp].alive; }

}  // namespace qb_host
