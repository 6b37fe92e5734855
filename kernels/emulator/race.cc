// Races between the threads of a launch, and reads of what nobody wrote.
//
// Two accesses to a byte, by different threads, at least one of them a write, not both atomic, are
// a race unless the first is ordered before the second:
//
//   - two blocks of a launch are never ordered (launches are);
//   - within a block __syncthreads orders what was before it and what is behind it;
//   - within a warp __syncwarp does so for the lanes of its mask, and for what these were ordered
//     behind. Shuffles and votes do not: CUDA promises no order of memory for them.
//
// Atomic operations are no barriers, as on a GPU, and neither are fences: a block that counts its
// way to being the last one is reported, although with fences in the right places it would be right.
//
// Each byte remembers who wrote it last, and two of its readers since. Two are enough: of readers in
// different warps any writer is in a different warp than one. What is forgotten are readers of a
// warp of which two others have read, and that a third, unsynchronised with it alone, overwrites.
//
// A byte of shared memory is uninitialised until its block writes it. A word of the device's memory
// is while it has the poison that memory.py fills new arrays with, which no arithmetic gives: so
// nothing has to be known of what NumPy or earlier launches wrote.

#include "access.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace emulator {
namespace {

struct Visit {
    uint32_t block = 0;  // its number in the launch, from 1 on; 0 if there was no visit
    uint32_t clock;
    uint32_t place;
    uint16_t thread;
    bool atomic;
};
struct Cell {
    Visit writer, readers[2];
};

// Cells of an array's bytes: zero, and taking no memory, until they are touched.
struct Free {
    void operator()(Cell* cells) const { free(cells); }
};
using Cells = std::unique_ptr<Cell[], Free>;
Cells make_cells(size_t bytes) {
    return Cells(static_cast<Cell*>(calloc(std::max<size_t>(bytes, 1), sizeof(Cell))));
}

constexpr int MOST = 1024, LANES = 32;
Cells shared_cells;
std::vector<Cells> device_cells;
uint32_t block;  // its number
// Time: a thread's clock goes on when it is ordered before others, and its visits carry it. What
// each lane has heard of the clocks of its warp says which visits are ordered before it.
uint32_t clocks[MOST], heard[MOST][LANES];
uint32_t at_barrier;  // the clock of all when they met last

bool before(const Visit& visit, const Fiber& f, bool shared) {
    if (visit.block == 0) return true;
    if (visit.block != block) return shared;  // in which case it was other memory
    if (visit.thread == f.number || visit.clock < at_barrier) return true;
    return visit.thread / LANES == f.warp && visit.clock <= heard[f.number][visit.thread % LANES];
}

uint3 index_of(size_t number, dim3 size) {
    return {unsigned(number % size.x), unsigned(number / size.x % size.y),
            unsigned(number / size.x / size.y)};
}

[[noreturn]] void race(const Access& access, const Visit& other, const char* did) {
    std::string who = position(index_of(other.thread, block_size),
                               index_of(other.block - 1, grid_size));
    fail("race: %s, which @%x@: %s %s: %s", describe(access).c_str(), other.place, who.c_str(),
         other.atomic ? "changed" : did,
         other.block == block ? "no barrier between them" : "blocks are not ordered");
    for (;;) wait(me());
}

// The first read of what nobody has written. Somebody may still write it, unordered: then the race
// is what has to be told. Of shared memory until the next barrier, of the device's until the end.
std::string early_shared, early_device;

void told_late(std::string& read) {
    if (!read.empty()) fail("uninitialised: %s, which nobody wrote", read.c_str());
    read.clear();
}

// Keep the visit among the two readers, preferably of different warps, better of different blocks.
void remember(const Visit& visit, Visit* readers, const Fiber& f, bool shared) {
    auto thread = [&](const Visit& v) { return v.block == visit.block && v.thread == visit.thread; };
    for (int i = 0; i < 2; i++) {
        if (thread(readers[i])) {
            readers[i] = visit;
            return;
        }
    }
    auto warp = [](const Visit& v) { return v.thread / LANES; };
    bool same_block = readers[0].block == readers[1].block;
    if (before(readers[0], f, shared)) {
        readers[0] = visit;
    } else if (before(readers[1], f, shared) ||
               (same_block && (visit.block != readers[0].block ||
                               (warp(readers[0]) == warp(readers[1]) &&
                                warp(visit) != warp(readers[0]))))) {
        readers[1] = visit;
    }
}

struct Race : Listener {
    void launch_begins() override {
        shared_cells = make_cells(ARENA);
        device_cells.clear();
        device_cells.resize(device_arrays.size());
        early_shared.clear(), early_device.clear();
    }
    void launch_ends() override { told_late(early_device); }
    void block_begins() override {
        block = block_index.x + grid_size.x * (block_index.y + grid_size.y * block_index.z) + 1;
        at_barrier = 1;
        std::fill_n(clocks, threads, at_barrier);
        std::fill_n(&heard[0][0], threads * LANES, 0);
    }
    void block_ends() override { told_late(early_shared); }
    void barrier_passed() override {
        told_late(early_shared);
        at_barrier = *std::max_element(clocks, clocks + threads) + 1;
        std::fill_n(clocks, threads, at_barrier);
    }
    void warp_synchronised(int warp, unsigned mask) override {
        uint32_t all[LANES] = {};
        for (int lane = 0; lane < LANES; lane++) {
            int thread = LANES * warp + lane;
            if (!(mask >> lane & 1)) continue;
            heard[thread][lane] = clocks[thread]++;
            for (int i = 0; i < LANES; i++) all[i] = std::max(all[i], heard[thread][i]);
        }
        for (int lane = 0; lane < LANES; lane++) {
            if (mask >> lane & 1) std::copy_n(all, LANES, heard[LANES * warp + lane]);
        }
    }

    Cell* cells_of(const Access& access) {
        if (access.shared) return &shared_cells[access.at - arena];
        const DeviceArray& array = device_arrays[access.array];
        Cells& cells = device_cells[access.array];
        if (!cells) cells = make_cells(array.end - array.start);
        return &cells[access.offset];
    }

    // The whole words around the access are compared: a byte of the poison alone may be a number.
    static bool poisoned(const Access& access) {
        const DeviceArray& array = device_arrays[access.array];
        const char* poison = reinterpret_cast<const char*>(&array.poison);
        const char* word = access.at - reinterpret_cast<uintptr_t>(access.at) % 4;
        for (; word < access.at + access.bytes; word += 4) {
            if (word >= array.start && word + 4 <= array.end &&
                !std::memcmp(word, poison + reinterpret_cast<uintptr_t>(word) % 8, 4)) {
                return true;
            }
        }
        return false;
    }

    void accessed(const Access& access) override {
        const Fiber& f = me();
        bool shared = access.shared, atomic = access.kind == ATOMIC;
        Visit visit = {block, clocks[f.number], access.place, uint16_t(f.number), atomic};
        bool reads = access.kind != WRITE;
        if (reads && !shared && early_device.empty() && poisoned(access)) {
            early_device = describe(access);
        }
        Cell* cell = cells_of(access);
        for (Cell* end = cell + access.bytes; cell < end; cell++) {
            const Visit& writer = cell->writer;
            if (reads && shared && writer.block != block && early_shared.empty()) {
                early_shared = describe(access);
            }
            if (!(atomic && writer.atomic) && !before(writer, f, shared)) {
                race(access, writer, "wrote");
            }
            if (access.kind == READ) {
                remember(visit, cell->readers, f, shared);
                continue;
            }
            for (Visit& reader : cell->readers) {
                if (!before(reader, f, shared)) race(access, reader, "read");
                reader.block = 0;
            }
            cell->writer = visit;
        }
    }
};

Race the_only_one;
[[maybe_unused]] Watcher* const registered = watcher = &the_only_one;

}  // namespace
}  // namespace emulator
