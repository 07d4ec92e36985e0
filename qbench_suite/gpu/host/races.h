// Races: two accesses of the same bytes by different threads, one of them a write, with nothing between
// that makes the one wait for the other; of shared memory, and of global memory by threads of one block.
// Every access is compared with those before it, whatever the order that the threads ran in.
#pragma once

#include "machine.h"

#include <dlfcn.h>

#include <algorithm>
#include <unordered_map>

namespace qb_host {

// An access of some bytes of a word: `step` is its thread's at the time.
struct Seen {
    unsigned thread, step;
    uint8_t bytes;  // a bit for each
    Access how;
    const void* from;
};

struct Word {
    std::vector<Seen> reads, writes;
    size_t turn = 0;  // threads mostly read in the same order again
    bool used = false;
};

// What a thread knows of the others. Steps begin anew at each barrier, exchange and arrival.
struct Clock {
    unsigned step = 1, arrivals = 0, waits = 0;  // the latter two: of the cluster's barrier
    // Of each lane of the warp the last step whose stores, and whose loads, are done.
    unsigned stored[kWarp] = {}, loaded[kWarp] = {};
};

// Between the slowest thread of a cluster and the fastest one lies less than this many barriers.
constexpr unsigned kRounds = 4;

struct Races {
    bool on = false;
    std::vector<Word> shared;  // of the arenas of all blocks
    std::vector<size_t> used;
    std::unordered_map<uintptr_t, Word> global;
    // Of each thread; and its step at the last barrier of its block, and at the last ones of its cluster.
    std::vector<Clock> clocks;
    std::vector<unsigned> at_block, at_cluster[kRounds];
};

static Races races;

static size_t number_of(const Fiber* fiber) { return static_cast<size_t>(fiber - machine.fibers.data()); }

static void forget_accesses() {
    if (!races.on) return;
    const size_t threads = machine.fibers.size();
    races.clocks.assign(threads, {});
    races.at_block.assign(threads, 0);
    for (std::vector<unsigned>& steps : races.at_cluster) steps.assign(threads, 0);
    for (size_t which : races.used) {
        Word& word = races.shared[which];
        word.reads.clear();
        word.writes.clear();
        word.used = false;
    }
    races.used.clear();
    races.global.clear();
}

// ---- what orders accesses

static void order_block(const BlockState& block) {
    if (!races.on) return;
    const size_t threads = machine.launch.threads;
    const size_t first = static_cast<size_t>(&block - machine.blocks.data()) * threads;
    unsigned waits = 0;
    for (size_t thread = first; thread < first + threads; ++thread) waits = std::max(waits, races.clocks[thread].waits);
    for (size_t thread = first; thread < first + threads; ++thread) {
        races.at_block[thread] = races.clocks[thread].step++;
        races.clocks[thread].waits = waits;
    }
}

// A shuffle or a vote is no barrier of memory: what was read before it has been read, as it may be what
// is exchanged; what was written need not be there yet.
static void order_warp(const List& lanes, bool stores) {
    if (!races.on) return;
    Clock all;
    for (const Fiber* fiber = lanes.first; fiber; fiber = fiber->next) {
        Clock& clock = races.clocks[number_of(fiber)];
        clock.stored[fiber->lane] = clock.loaded[fiber->lane] = clock.step++;
        all.waits = std::max(all.waits, clock.waits);
        for (unsigned lane = 0; lane < kWarp; ++lane) {
            all.stored[lane] = std::max(all.stored[lane], clock.stored[lane]);
            all.loaded[lane] = std::max(all.loaded[lane], clock.loaded[lane]);
        }
    }
    for (const Fiber* fiber = lanes.first; fiber; fiber = fiber->next) {
        Clock& clock = races.clocks[number_of(fiber)];
        memcpy(clock.loaded, all.loaded, sizeof clock.loaded);
        if (!stores) continue;
        memcpy(clock.stored, all.stored, sizeof clock.stored);
        clock.waits = all.waits;
    }
}

static void order_arrival(const Fiber* fiber) {
    if (!races.on) return;
    const size_t thread = number_of(fiber);
    Clock& clock = races.clocks[thread];
    races.at_cluster[clock.arrivals++ % kRounds][thread] = clock.step++;
}

static void order_wait(const Fiber* fiber) {
    if (!races.on) return;
    Clock& clock = races.clocks[number_of(fiber)];
    clock.waits = std::max(clock.waits, clock.arrivals);
}

// Of a thread that has ended: barriers do not wait for it, all that it did is done.
static void order_end(const Fiber* fiber) {
    if (!races.on) return;
    const size_t thread = number_of(fiber);
    for (std::vector<unsigned>& steps : races.at_cluster) steps[thread] = races.clocks[thread].step;
}

static bool ordered(const Seen& before, size_t thread) {
    const Fiber &then = machine.fibers[before.thread], &now = machine.fibers[thread];
    const Clock& clock = races.clocks[thread];
    if (then.block == now.block) {
        if (races.at_block[before.thread] >= before.step) return true;
        const unsigned* known = before.how == Access::read ? clock.loaded : clock.stored;
        if (then.warp == now.warp && known[then.lane] >= before.step) return true;
    }
    return then.block->cluster == now.block->cluster && clock.waits &&
           races.at_cluster[(clock.waits - 1) % kRounds][before.thread] >= before.step;
}

// ---- accesses

// An address within the kernel's library, which is looked up there.
static std::string line_of(const void* from) {
    Dl_info info;
    if (!dladdr(from, &info)) return "?";
    const size_t offset = static_cast<size_t>(static_cast<const char*>(from) - static_cast<const char*>(info.dli_fbase));
    return text("{0x%zx}", offset - 1);  // the call, not what it returns to
}

static bool within(const unsigned char* address, const unsigned char* first, size_t bytes) {
    return address >= first && address < first + bytes;
}

static bool in_shared(const unsigned char* address) {
    return within(address, machine.blocks[0].arena, machine.launch.arena_bytes * machine.blocks.size());
}

static std::string place(const unsigned char* address) {
    if (!in_shared(address)) return text("global memory at %p", static_cast<const void*>(address));
    const size_t offset = static_cast<size_t>(address - machine.blocks[0].arena);
    const BlockState& block = machine.blocks[offset / machine.launch.arena_bytes];
    const std::string of = " shared memory of block " + text(block.index);
    const unsigned char* dynamic = block.arena + kRedZone + kStaticBytes;
    if (address >= dynamic) return text("byte %zu of the dynamic", static_cast<size_t>(address - dynamic)) + of;
    for (const StaticArray& array : block.arrays) {
        const unsigned char* begin = block.arena + array.offset;
        if (address >= begin && address < begin + array.bytes)
            return text("byte %zu of a static array of %zu in the", static_cast<size_t>(address - begin), array.bytes) + of;
    }
    return "a byte outside of any array of the" + of;
}

[[noreturn]] static void report(const Seen& before, const Seen& now, const unsigned char* word) {
    static const char* const present[] = {"reads", "writes", "atomically updates"};
    static const char* const past[] = {"read", "wrote", "atomically updated"};
    const Fiber &then = machine.fibers[before.thread], &self = machine.fibers[now.thread];
    const char* remedy = then.block != self.block ? "qb::cluster_sync()"
                         : then.warp != self.warp ? "__syncthreads()"
                                                  : "__syncwarp() (shuffles do not order writes) or __syncthreads()";
    const unsigned char* byte = word + __builtin_ctz(before.bytes & now.bytes);
    fail("a race: " + who(self) + " " + present[static_cast<int>(now.how)] + " " + place(byte) + " at " +
         line_of(now.from) + ", which " + who(then) + " " + past[static_cast<int>(before.how)] + " at " +
         line_of(before.from) + ", without a barrier of both between; put " + remedy + " between them");
}

static void compare(const std::vector<Seen>& earlier, const Seen& now, const unsigned char* word) {
    for (const Seen& before : earlier) {
        if (before.thread == now.thread || !(before.bytes & now.bytes)) continue;
        if (before.how == Access::atomic && now.how == Access::atomic) continue;
        // Blocks wait for each other's writes to global memory with fences and counters.
        if (machine.fibers[before.thread].block != machine.fibers[now.thread].block && !in_shared(word)) continue;
        if (!ordered(before, now.thread)) report(before, now, word);
    }
}

static Word& word_at(const unsigned char* address) {
    if (!in_shared(address)) return races.global[reinterpret_cast<uintptr_t>(address)];
    const size_t which = static_cast<size_t>(address - machine.blocks[0].arena) / 4;
    Word& word = races.shared[which];
    if (!word.used) races.used.push_back(which);
    word.used = true;
    return word;
}

static void keep_read(Word& word, const Seen& now) {
    const size_t count = word.reads.size();
    for (size_t i = 0; i < count; ++i) {
        const size_t at = (word.turn + i) % count;
        Seen& before = word.reads[at];
        if (before.thread != now.thread || before.bytes != now.bytes) continue;
        before = now;
        word.turn = at;
        return;
    }
    word.reads.push_back(now);
    word.turn = 0;
}

static void keep_write(Word& word, const Seen& now) {
    const auto replaced = [&](const Seen& before) {
        return !(before.bytes & ~now.bytes) && (now.how == Access::write || before.thread == now.thread);
    };
    const auto forget = [&](std::vector<Seen>& seen) {
        seen.erase(std::remove_if(seen.begin(), seen.end(), replaced), seen.end());
    };
    forget(word.reads);
    forget(word.writes);
    word.writes.push_back(now);
}

// The blocks of a cluster start together, but not at once.
static void check_start(const unsigned char* address, size_t thread, const void* from) {
    const Fiber& self = machine.fibers[thread];
    if (!in_shared(address) || within(address, self.block->arena, machine.launch.arena_bytes)) return;
    if (races.clocks[thread].waits) return;
    fail("a race: " + who(self) + " uses " + place(address) + " at " + line_of(from) +
         ", which may not have started yet; put qb::cluster_sync() before");
}

static void accessed(const void* address, size_t bytes, Access how, const void* from) {
    const auto* first = static_cast<const unsigned char*>(address);
    if (!races.on || !machine.running) return;
    if (within(first, machine.stacks, machine.stride * machine.stack_count)) return;
    if (within(first, reinterpret_cast<unsigned char*>(&machine), sizeof machine)) return;
    Seen now{static_cast<unsigned>(number_of(machine.running)), 0, 0, how, from};
    now.step = races.clocks[now.thread].step;
    check_start(first, now.thread, from);
    for (const unsigned char *end = first + bytes, *at = first; at < end;) {
        const size_t skip = reinterpret_cast<uintptr_t>(at) % 4;
        const unsigned char *begin = at - skip, *next = std::min(begin + 4, end);
        now.bytes = static_cast<uint8_t>((1u << (next - begin)) - (1u << skip));
        at = next;
        Word& word = word_at(begin);
        compare(word.writes, now, begin);
        if (how == Access::read) {
            keep_read(word, now);
            continue;
        }
        compare(word.reads, now, begin);
        keep_write(word, now);
    }
}

}  // namespace qb_host
