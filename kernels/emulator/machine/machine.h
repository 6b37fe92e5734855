// What the parts of the machine share: runtime.cc runs blocks of fibers (fibers.cc) with shared
// memory (shared.cc); a watcher receives every access (access.cc) and checks it (race.cc) or counts
// it (profile.cc).
#pragma once

#include "shim.h"

#include <deque>
#include <string>
#include <vector>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emulator {

// --- fibers.cc --------------------------------------------------------------------------------

constexpr size_t MAX_THREADS = 1024;  // of a block
constexpr size_t STACK = 1 << 16;     // bytes
enum State { READY, AT_BARRIER, IN_WARP, DONE };

constexpr size_t COPIED = 16;  // bytes of a copy
struct Copy {    // begun by a thread and not yet waited for (ptx.cc)
    char* to;
    uint4 data;
    unsigned group;
    uint32_t place;
    int thread;
};

struct Fiber : Thread {
    State state;
    int line;  // of the barrier or warp operation at which it waits
    unsigned mask;  // of that warp operation
    char* stack = nullptr;
    void* at = nullptr;  // its stack pointer, or its context, while others run
    int atomics;  // atomic operations since it was last resumed
    std::deque<Copy> copies;  // in the order of their groups
    unsigned groups;          // that have ended
    alignas(16) char values[32 * 16];  // values that the lanes gave to its last warp operation
};

extern std::vector<Fiber> fibers;
extern size_t threads;  // threads per block: the number of fibers in use
extern void (*kernel)(void*);
extern void* kernel_arguments;

inline Fiber& me() { return static_cast<Fiber&>(*current); }
void make_fibers();
void resume(Fiber& f);   // returns when the fiber suspends itself
void suspend(Fiber& f);  // returns when the fiber is resumed
bool on_a_stack(const char* at);

// --- runtime.cc -------------------------------------------------------------------------------

// Ends the launch with this message. Python turns each @offset@ into the library into a source
// line. Only the first failure of a launch is reported.
__attribute__((format(printf, 1, 2))) void fail(const char* format, ...);
uint32_t place_of(const void* instruction);  // the instruction's offset into the library
std::string position(uint3 thread, uint3 block);
inline std::string position(const Thread& t) { return position(t.index, block_index); }

// --- ptx.cc -----------------------------------------------------------------------------------

// The copy, of any thread, that has begun but not arrived at these bytes of shared memory, or null.
const Copy* unfinished_copy(const char* at, size_t bytes);
void forget_copies(Fiber& f);

// --- shared.cc --------------------------------------------------------------------------------

constexpr size_t ARENA = 1 << 18;
constexpr size_t MAX_SHARED = 48 << 10;  // bytes per block, static and dynamic, on every GPU
struct Shared {
    const void* key;
    size_t start, bytes;  // start: offset in the arena
    const char* name;
};
extern char arena[ARENA];
extern std::vector<Shared> shared_arrays;  // of this block

void poison(char* from, size_t bytes);
void begin_shared(size_t dynamic);
void check_red_zones();

// --- access.cc, race.cc, profile.cc -----------------------------------------------------------

enum Kind { READ, WRITE, ATOMIC };

// Is notified of a launch's accesses and synchronisation. Plain mode has no watcher.
struct Watcher {
    virtual void launch_begins() = 0;
    virtual void launch_ends() = 0;
    virtual void block_begins() = 0;
    virtual void block_ends() = 0;
    virtual void barrier_passed() = 0;
    virtual void fence() = 0;
    virtual void warp_synchronised(int warp, unsigned mask) = 0;
    virtual void copy_arrives(const void* at, uint32_t place) = 0;
    virtual void access_skipped(uint32_t place) = 0;  // the instruction runs, without an access
    // aligned: the address must be a multiple of the bytes.
    virtual void access(Kind kind, const void* at, size_t bytes, bool aligned,
                        uint32_t place) = 0;
};
extern Watcher* watcher;

}  // namespace emulator
