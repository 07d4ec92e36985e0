// Asynchronous copies: done when they are waited for, so that a wait too few shows.
#pragma once

#include "races.h"

namespace qb_host {

static std::vector<Copy>& copies_of(const Fiber* fiber) {
    return machine.copies[static_cast<size_t>(fiber - machine.fibers.data())];
}

// It may arrive at any time until it is waited for: at the first of them, and at the last, it must not
// meet what others do there.
static void copy_async(void* to, const void* from, size_t bytes) {
    accessed(to, bytes, Access::write, __builtin_return_address(0));
    copies_of(machine.running).push_back({to, from, bytes, machine.running->batch});
}

static void commit_copies() { ++machine.running->batch; }

static void wait_for_copies(unsigned pending) {
    std::vector<Copy>& copies = copies_of(machine.running);
    size_t left = 0;
    for (const Copy& copy : copies) {
        if (copy.batch + pending >= machine.running->batch) {
            copies[left++] = copy;
            continue;
        }
        memcpy(copy.to, copy.from, copy.bytes);
        accessed(copy.to, copy.bytes, Access::write, __builtin_return_address(0));
    }
    copies.resize(left);
}

}  // namespace qb_host
