// Shared memory: the arrays of a block, one after the other in an arena, with red zones between.

#include "machine.h"

#include <algorithm>

namespace emulator {

alignas(256) char arena[ARENA];
std::vector<Shared> shared_arrays;

namespace {

constexpr size_t RED_ZONE = 64;
// A signalling NaN: whatever is computed from it is NaN, and any arithmetic changes its bits. Its
// two halves are float16 NaNs.
constexpr uint32_t POISON = 0x7fa57da5;

size_t arena_end, static_bytes;

}  // namespace

void poison(char* from, size_t bytes) {
    for (size_t i = 0; i + 4 <= bytes; i += 4) std::memcpy(from + i, &POISON, 4);
}

void begin_shared(size_t dynamic) {
    poison(arena, arena_end);  // the part that the previous block used
    shared_arrays.clear();
    shared_arrays.push_back({nullptr, RED_ZONE, dynamic, "dynamic shared memory"});
    arena_end = RED_ZONE + (dynamic + 15) / 16 * 16 + RED_ZONE;
    static_bytes = 0;
}

// Fails if the block has changed any byte of the poison around a shared array.
void check_red_zones() {
    for (const Shared& s : shared_arrays) {
        size_t end = s.start + s.bytes, next = (end + 15) / 16 * 16 + RED_ZONE;
        for (size_t i = s.start - RED_ZONE; i < next; i++) {
            if (i == s.start) i = end;
            if (arena[i] != reinterpret_cast<const char*>(&POISON)[i % 4]) {
                fail("block (%u, %u, %u) wrote %s of %s (%zu bytes)", block_index.x,
                     block_index.y, block_index.z,
                     i < s.start ? "in front" : "beyond the end", s.name, s.bytes);
                return;
            }
        }
    }
}

void* shared_array(const void* key, size_t bytes, size_t align, const char* name) {
    for (const Shared& s : shared_arrays) {
        if (s.key == key) return arena + s.start;
    }
    align = std::max<size_t>(align, 16);
    size_t start = (arena_end + align - 1) / align * align;
    if (start / align % 2 == 0) start += align;  // not better aligned than declared
    arena_end = start + (bytes + 15) / 16 * 16 + RED_ZONE;
    static_bytes += bytes;
    if (static_bytes + shared_arrays[0].bytes > MAX_SHARED || arena_end > ARENA) {
        fail("%s: %zu bytes of shared memory, including dynamic: a block may have %zu", name,
             static_bytes + shared_arrays[0].bytes, MAX_SHARED);
        suspend(me());
    }
    shared_arrays.push_back({key, start, bytes, name});
    return arena + start;
}

void* dynamic_shared() { return arena + RED_ZONE; }

}  // namespace emulator
