// Finds races between the threads of a launch, and reads of uninitialised memory.
//
// Two accesses to a byte by different threads, at least one of them a write and not both atomic,
// are a race unless the first is ordered before the second (order.cc).
//
// For each byte the last writer and two of the readers since then are stored. Two are enough: if
// the two readers are in different warps, any writer is in a different warp than one of them. A
// race is missed only with a third reader, when two other lanes of its warp are stored and the
// writer is unordered with that reader alone.
//
// A byte of shared memory is uninitialised until its block writes it. A word of device memory is
// uninitialised while it contains the poison with which memory.py fills new arrays; no arithmetic
// produces this value, so writes by NumPy or by earlier launches need no tracking.

#include "access.h"
#include "order.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

namespace emulator {
namespace {

struct Cell {
    Visit writer, readers[2];
};

// One cell for each byte of an array. Memory from calloc is zero, and takes no space until touched.
struct Free {
    void operator()(Cell* cells) const { free(cells); }
};
using Cells = std::unique_ptr<Cell[], Free>;
Cells make_cells(size_t bytes) {
    return Cells(static_cast<Cell*>(calloc(std::max<size_t>(bytes, 1), sizeof(Cell))));
}

constexpr int LANES = 32;
Cells shared_cells;
std::vector<Cells> device_cells;

// Whether the visit is ordered before the current access. Shared memory is private to a block: a
// visit of another block accessed other memory.
bool before(const Visit& visit, bool shared) {
    return (shared && visit.block != block_number()) || before_now(visit);
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
         other.block == block_number() ? "no barrier between them" : "blocks are not ordered");
    for (;;) suspend(me());
}

// The first read of uninitialised memory. It is reported late, because another thread may still
// write that memory unordered, and then the race is the error to report: for shared memory at the
// next barrier, for device memory at the end of the launch.
std::string unwritten_shared, unwritten_device;

void report_unwritten(std::string& read) {
    if (!read.empty()) fail("uninitialised: %s, which nobody wrote", read.c_str());
    read.clear();
}

// Fails if a copy to these bytes has begun and its thread has not waited for it.
void report_unfinished(const Access& access) {
    const Copy* copy = unfinished_copy(access.at, access.bytes);
    if (!copy) return;
    std::string who = position(index_of(copy->thread, block_size), block_index);
    fail("unfinished: %s, to which @%x@: %s copies: no cp_async_wait between them",
         describe(access).c_str(), copy->place, who.c_str());
    for (;;) suspend(me());
}

// Stores the visit as one of the two readers, preferring readers of different blocks, then of
// different warps.
void remember(const Visit& visit, Visit* readers, bool shared) {
    for (int i = 0; i < 2; i++) {
        if (readers[i].block == visit.block && readers[i].thread == visit.thread) {
            readers[i] = visit;
            return;
        }
    }
    auto warp = [](const Visit& v) { return v.thread / LANES; };
    bool same_block = readers[0].block == readers[1].block;
    if (before(readers[0], shared)) {
        readers[0] = visit;
    } else if (before(readers[1], shared) ||
               (same_block && (visit.block != readers[0].block ||
                               (warp(readers[0]) == warp(readers[1]) &&
                                warp(visit) != warp(readers[0]))))) {
        readers[1] = visit;
    }
}

struct RaceDetector : AccessWatcher {
    void launch_begins() override {
        order_launch();
        shared_cells = make_cells(ARENA);
        device_cells.clear();
        device_cells.resize(device_arrays.size());
        unwritten_shared.clear(), unwritten_device.clear();
    }
    void launch_ends() override { report_unwritten(unwritten_device); }
    void block_begins() override { order_block(); }
    void block_ends() override { report_unwritten(unwritten_shared); }
    void barrier_passed() override {
        report_unwritten(unwritten_shared);
        order_barrier();
    }
    void warp_synchronised(int warp, unsigned mask) override { order_warp(warp, mask); }
    void fence() override { order_fence(); }
    void access_skipped(uint32_t) override {}
    void copy_arrives(const void* at, uint32_t place) override {
        access(WRITE, at, COPIED, true, place);
    }

    Cell* cells_of(const Access& access) {
        if (access.shared) return &shared_cells[access.at - arena];
        const DeviceArray& array = device_arrays[access.array];
        Cells& cells = device_cells[access.array];
        if (!cells) cells = make_cells(array.end - array.start);
        return &cells[access.offset];
    }

    // Compares complete words around the access: a single byte of the poison may be a valid value.
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
        bool shared = access.shared, atomic = access.kind == ATOMIC;
        Visit visit = visit_now(access.place, atomic);
        bool reads = access.kind != WRITE;
        if (shared) report_unfinished(access);
        if (reads && !shared && unwritten_device.empty() && poisoned(access)) {
            unwritten_device = describe(access);
        }
        Cell* cell = cells_of(access);
        for (Cell* end = cell + access.bytes; cell < end; cell++) {
            const Visit& writer = cell->writer;
            if (reads && shared && writer.block != visit.block && unwritten_shared.empty()) {
                unwritten_shared = describe(access);
            }
            if (!(atomic && writer.atomic) && !before(writer, shared)) {
                race(access, writer, "wrote");
            }
            if (access.kind == READ) {
                remember(visit, cell->readers, shared);
                continue;
            }
            for (Visit& reader : cell->readers) {
                if (!before(reader, shared)) race(access, reader, "read");
                reader.block = 0;
            }
            cell->writer = visit;
        }
        if (atomic) order_atomic(access.at);
    }
};

RaceDetector detector;
// Initialising this variable when the library is loaded installs the watcher.
[[maybe_unused]] Watcher* const installed = watcher = &detector;

}  // namespace
}  // namespace emulator
