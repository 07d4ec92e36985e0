// Shared memory of a block: static arrays, what was never written, what was written outside.
#pragma once

#include "machine.h"

namespace qb_host {

static void* static_shared(const void* key, size_t bytes, size_t alignment) {
    BlockState& block = *machine.running->block;
    for (const StaticArray& array : block.arrays)
        if (array.key == key) return block.arena + array.offset;
    const size_t step = alignment > 16 ? alignment : 16;
    const size_t offset = (block.static_end + step - 1) / step * step;
    block.static_end = offset + bytes + kRedZone;
    block.static_bytes += bytes;
    if (block.static_end > kRedZone + kStaticBytes)
        fail("the static shared arrays of a block take more than 48 KiB: " + who(*machine.running));
    if (block.static_bytes + machine.launch.dynamic_bytes > machine.launch.shared_limit)
        fail(text("a block has %zu bytes of shared memory at most; asked for %zu static and %zu dynamic: ",
                  machine.launch.shared_limit, block.static_bytes, machine.launch.dynamic_bytes) +
             who(*machine.running));
    block.arrays.push_back({key, offset, bytes});
    return block.arena + offset;
}

static bool poisoned(const unsigned char* from, const unsigned char* to) {
    return *from == kPoison && memcmp(from, from + 1, static_cast<size_t>(to - from) - 1) == 0;
}

static void poison(BlockState& block) {
    unsigned char* dynamic = block.arena + kRedZone + kStaticBytes;
    memset(block.arena, kPoison, block.static_end);
    memset(dynamic, kPoison, machine.launch.dynamic_bytes);
}

// The error of a write outside shared memory, or nothing.
static std::string overrun(const BlockState& block) {
    const unsigned char* dynamic = block.arena + kRedZone + kStaticBytes;
    const char* what = nullptr;
    size_t end = kRedZone;
    if (!poisoned(block.arena, block.arena + kRedZone)) what = "before the first static array";
    for (const StaticArray& array : block.arrays) {
        end = array.offset + array.bytes;
        if (!poisoned(block.arena + end, block.arena + end + kRedZone)) what = "after the end of a static array";
    }
    if (!poisoned(dynamic - kRedZone, dynamic)) what = "before dynamic shared memory";
    dynamic += machine.launch.dynamic_bytes;
    if (!poisoned(dynamic, dynamic + kRedZone)) what = "after the end of dynamic shared memory";
    if (!what) return "";
    return text("out of bounds: block %s wrote %s (%zu bytes dynamic)", text(block.index).c_str(), what,
                machine.launch.dynamic_bytes);
}

}  // namespace qb_host
