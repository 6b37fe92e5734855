// Loads of matrices and copies to shared memory (ptx.h), for all modes.
//
// On a GPU the bytes of a copy may arrive at any time between its beginning and the wait. Here they
// arrive at the wait: whoever reads them before gets what was there, and race mode reports it. A
// copy writes twice, for race mode: at its beginning, so that all accesses before must be ordered
// before it, and at the wait, so that other threads' accesses must be ordered behind that.

#include "machine.h"

#include <algorithm>

namespace emulator {

namespace {

struct Row {
    unsigned* to;
    const char* begin;
};

// `all` has the Row of each lane.
template <bool transposed> void load_all(const char* all) {
    const Row* lanes = reinterpret_cast<const Row*>(all);
    for (int lane = 0; lane < 32; lane++) {
        int g = lane / 4, t = lane % 4;
        for (int m = 0; m < 4; m++) {
            const Row* rows = lanes + 8 * m;
            char* to = reinterpret_cast<char*>(lanes[lane].to + m);
            if (transposed) {
                std::memcpy(to, rows[2 * t].begin + 2 * g, 2);
                std::memcpy(to + 2, rows[2 * t + 1].begin + 2 * g, 2);
            } else {
                std::memcpy(to, rows[g].begin + 4 * t, 4);
            }
        }
    }
}

bool aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % COPIED == 0; }
bool is_shared(const void* at) { return size_t(static_cast<const char*>(at) - arena) < ARENA; }

}  // namespace

const Copy* unfinished[ARENA / COPIED];

const Copy* unfinished_copy(const char* at, size_t bytes) {
    for (size_t i = (at - arena) / COPIED; i <= (at - arena + bytes - 1) / COPIED; i++) {
        if (unfinished[i]) return unfinished[i];
    }
    return nullptr;
}

void load_matrices(unsigned* to, const void* row, bool transposed, int line) {
    if (!aligned(row)) refuse("loads a row that does not begin at a multiple of 16 bytes", line);
    if (!is_shared(row)) refuse("loads a row of a matrix that is not in shared memory", line);
    if (watcher) watcher->access(READ, row, 16, true, place_of(__builtin_return_address(0)) - 1);
    Row mine = {to, static_cast<const char*>(row)};
    exchange(~0u, &mine, sizeof mine, line, transposed ? load_all<true> : load_all<false>);
}

void check_copy(const void* to, const void* from, bool inside, int line) {
    if (!aligned(to)) refuse("copies to an address that is not a multiple of 16 bytes", line);
    if (!aligned(from)) refuse("copies from an address that is not a multiple of 16 bytes", line);
    if (!is_shared(to)) refuse("copies to an address that is not in shared memory", line);
    if (is_shared(from)) refuse("copies from shared memory instead of global memory", line);
    uint32_t place = place_of(__builtin_return_address(0)) - 1;
    if (watcher && inside) watcher->access(READ, from, COPIED, true, place);
    if (watcher && !inside) watcher->access_skipped(place);
}

void begin_copy(void* to, uint4 data) {
    Fiber& f = me();
    uint32_t place = place_of(__builtin_return_address(0)) - 1;
    if (watcher) watcher->access(WRITE, to, COPIED, true, place);
    char* at = static_cast<char*>(to);
    f.copies.push_back({at, data, f.groups, place, f.number});
    unfinished[(at - arena) / COPIED] = &f.copies.back();
}

void end_group() { me().groups++; }

void wait_for_copies(unsigned groups) {
    Fiber& f = me();
    while (!f.copies.empty() && f.copies.front().group + groups < f.groups) {
        Copy copy = f.copies.front();
        f.copies.pop_front();
        unfinished[(copy.to - arena) / COPIED] = nullptr;
        std::memcpy(copy.to, &copy.data, COPIED);
        if (watcher) watcher->copy_arrives(copy.to, copy.place);
    }
}

void forget_copies(Fiber& f) {
    for (const Copy& copy : f.copies) unfinished[(copy.to - arena) / COPIED] = nullptr;
    f.copies.clear();
    f.groups = 0;
}

}  // namespace emulator
